"""Runs uv: resolves requirements, creates venvs, installs packages, builds wheels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from airflow_provider_sparkdeps.environments.context import BuildContext, Login
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.processes import run, tool_environ
from airflow_provider_sparkdeps.utils.text import shorten_output

# User settings of uv that would change what is installed, or where.
_OVERRULED = (
    "UV_COMPILE_BYTECODE", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_PROJECT", "UV_VENV_SEED",
    "UV_REQUIRE_HASHES", "UV_LOCKED", "UV_FROZEN", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY",
)  # fmt: skip

# An archive must not depend on when its wheels were built. Zip files have no earlier time in any time zone.
_BUILT_AT = "315619200"
_INDEX = "SPARKDEPS"
# uv "prepares" packages that are not in its cache yet.
_COUNTED = re.compile(r"(Prepared|Installed) (\d+) packages? in")


@cache
def uv_binary() -> Path:
    """Return the path of the uv that is installed with this package.

    :raises BuildError: if it can't be found.
    """
    from uv import find_uv_bin

    try:
        return Path(find_uv_bin())
    except FileNotFoundError as error:
        raise BuildError(f"The package uv is installed without its program: {error}. Install it again.") from error


class Uv:
    """uv, with the working directory, deadline and login of one build.

    :param scratch: an existing directory for its input files, outside the user's projects, whose settings uv would
        read.
    :param context: its `report` is called with each line of uv's output.
    :param login: of a private index, which takes precedence over all others.
    :param cross_platform: options of uv that select another platform; only wheels are used then.
    """

    def __init__(
        self, scratch: Path, context: BuildContext, *, login: Login | None = None, cross_platform: Sequence[str] = ()
    ) -> None:
        self.scratch = scratch
        self._context = context
        self._login = login
        self._phase = "resolve"
        self._installed = self._fetched = 0
        self._cross_platform = [*cross_platform, "--only-binary", ":all:"] if cross_platform else []

    def resolve(
        self,
        requirements: Sequence[str],
        *,
        python: Path,
        constraints: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """Return the exact requirements that satisfy these, sorted.

        :param options: lines of a requirements.txt about indexes.
        :raises BuildError: if there is no solution; with the resolver's explanation.
        """
        wanted = self._file("requirements.in", [*options, *requirements])
        limits: list[str | Path] = ["--constraints", self._file("constraints.txt", constraints)] if constraints else []
        quiet = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
        stdout = self._uv(
            "pip", "compile", wanted, "--python", python, *limits, *self._cross_platform, *quiet,
            what="resolve the requirements",
        )  # fmt: skip
        return tuple(sorted(line.strip() for line in stdout.splitlines() if line.strip()))

    def install(
        self, lock: Sequence[str], *, prefix: Path, python: Path, options: Sequence[str] = (), pylock: str = ""
    ) -> None:
        """Create a venv with exactly these packages, whose scripts run the interpreter next to them.

        :param options: lines of a requirements.txt about indexes.
        :param pylock: contents of a pylock.toml whose packages are installed, too.
        :raises BuildError: if it fails; with uv's output.
        """
        self._uv("venv", "--relocatable", "--quiet", "--python", python, prefix, what="make a venv")
        self._install(lock, options, pylock, "--python", prefix / "bin" / "python")

    def install_for_platform(
        self, lock: Sequence[str], *, target: Path, python: Path, options: Sequence[str] = (), pylock: str = ""
    ) -> None:
        """Install packages for another platform into a directory, and their scripts into its `bin`.

        :raises BuildError: if it fails; with uv's output.
        """
        self._install(lock, options, pylock, "--target", target, "--python", python, *self._cross_platform)

    def add(self, lock: Sequence[str], *, python: Path) -> None:
        """Add exactly these packages to an environment.

        :raises BuildError: if it fails; with uv's output.
        """
        self._install(lock, (), "", "--break-system-packages", "--python", python)

    def build_wheel(self, source: Path, target: Path, *, python: Path, title: str) -> None:
        """Build a project's wheel.

        :param source: its directory or sdist. The build may write to it.
        :param target: directory for the wheel.
        :param title: name of the project, for the error.
        :raises BuildError: if the build fails; with the output of the build backend.
        """
        self._uv("build", "--wheel", "--out-dir", target, "--python", python, source, what=f"build a wheel of {title}")

    def export(self, project: Path, *, extras: Sequence[str], groups: Sequence[str], python: Path) -> Path:
        """Return a pylock.toml with the contents of a project's uv.lock.

        :raises BuildError: if it fails; with uv's output.
        """
        target = self.scratch / "pylock.toml"
        chosen = [part for extra in extras for part in ("--extra", extra)]
        chosen += [part for group in groups for part in ("--group", group)]
        # The lock is used as it is: it was compared with its pyproject.toml when it was read.
        options = ["--frozen", "--no-default-groups", "--no-emit-project", "--no-header", "--format", "pylock.toml"]
        self._uv(
            "export", "--project", project, "--python", python, *options, *chosen, "--output-file", target,
            what=f"export {project.name}/uv.lock",
        )  # fmt: skip
        return target

    def _install(self, lock: Sequence[str], options: Sequence[str], pylock: str, *where: str | Path) -> None:
        # The user's settings may ask for symlinks into the cache, which executors do not have.
        common = ["--no-deps", "--link-mode", "hardlink", *where]
        self._phase = "install"
        self._installed = self._fetched = 0
        if pylock:
            file = self.scratch / "pylock.sparkdeps.toml"
            file.write_text(pylock, encoding="utf-8")
            self._uv("pip", "install", "--requirements", file, *common, what="install the locked packages")
        if lock:
            # As with pip: if one package has a hash, all need one.
            strict = ["--require-hashes"] if any("--hash=" in line for line in lock) else []
            file = self._file("requirements.lock", [*options, *lock])
            self._uv("pip", "install", "--requirements", file, *common, *strict, what="install the packages")
        if self._installed:
            self._report(
                f"{self._installed - self._fetched} packages from uv's cache, {self._fetched} fetched or built"
            )

    def _file(self, name: str, lines: Sequence[str]) -> Path:
        path = self.scratch / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def _uv(self, *arguments: str | Path, what: str) -> str:
        secrets = [self._login.password] if self._login else []

        def on_line(line: str) -> None:
            if counted := _COUNTED.match(line.strip()):
                self._installed += int(counted[2]) if counted[1] == "Installed" else 0
                self._fetched += int(counted[2]) if counted[1] == "Prepared" else 0
            if not line.startswith("Using Python"):
                self._report(line.strip())

        deadline, environ = self._context.deadline, self._environ()
        command = [uv_binary(), *arguments]
        done = run(command, deadline=deadline, cwd=self.scratch, environ=environ, on_line=on_line, secrets=secrets)
        if done.code != 0:
            output = shorten_output(done.stderr or done.stdout, secrets)
            raise BuildError(f"uv could not {what}. Its output:\n\n{output}")
        return done.stdout

    def _report(self, line: str) -> None:
        self._context.report(self._phase, line)

    def _environ(self) -> dict[str, str]:
        # A missing interpreter is reported as an error, unless the user allows uv to download it.
        downloads = os.environ.get("UV_PYTHON_DOWNLOADS", "never")
        environ = tool_environ(
            UV_PYTHON_DOWNLOADS=downloads, UV_NO_PROGRESS="1", NO_COLOR="1", SOURCE_DATE_EPOCH=_BUILT_AT
        )
        for name in _OVERRULED:
            environ.pop(name, None)
        # Otherwise uv warns at each use that its support of lock files is experimental.
        environ["UV_PREVIEW_FEATURES"] = ",".join(filter(None, [environ.get("UV_PREVIEW_FEATURES"), "pylock"]))
        if self._login:
            environ["UV_INDEX"] = f"{_INDEX.lower()}={self._login.url} {environ.get('UV_INDEX', '')}".strip()
        if self._login and (self._login.username or self._login.password):
            # The user name that PyPI asks for with a token.
            environ[f"UV_INDEX_{_INDEX}_USERNAME"] = self._login.username or "__token__"
            environ[f"UV_INDEX_{_INDEX}_PASSWORD"] = self._login.password
        return environ
