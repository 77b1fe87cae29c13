"""What uv does for us: resolve requirements, make a venv, install into it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from airflow_provider_sparkdeps.environments.base import Login
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import run, tool_environ
from airflow_provider_sparkdeps.utils.text import one_screen

# Settings of the user's that would make another prefix than the one that is asked for.
_OVERRULED = (
    "UV_COMPILE_BYTECODE", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_PROJECT", "UV_VENV_SEED",
    "UV_REQUIRE_HASHES", "UV_LOCKED", "UV_FROZEN", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY",
)  # fmt: skip

# An archive must not depend on when the wheels in it were built; zip files know no earlier time in any time zone.
_BUILT_AT = "315619200"
_INDEX = "SPARKDEPS"
# uv prepares what its cache doesn't hold yet.
_COUNTED = re.compile(r"(Prepared|Installed) (\d+) packages? in")


@cache
def uv_binary() -> Path:
    """Return the path of the uv that is installed with this package.

    :raises BuildError: when it can't be found.
    """
    from uv import find_uv_bin

    try:
        return Path(find_uv_bin())
    except FileNotFoundError as error:
        raise BuildError(f"The package uv is installed without its program ({error}). Install it again.") from error


class Uv:
    """uv, bound to a working directory and a deadline.

    :param scratch: an existing directory for its input files; away from the user's projects, whose settings uv
        would read.
    :param deadline: of the build.
    :param on_line: told each line of its progress.
    :param login: of a private index, which comes before all others.
    :param foreign: options of uv about a platform that isn't this machine's: then wheels only.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        deadline: Deadline,
        on_line: Callable[[str], None],
        login: Login | None = None,
        foreign: Sequence[str] = (),
    ) -> None:
        self.scratch = scratch
        self._deadline = deadline
        self._login = login
        self._installed = self._fetched = 0
        self._tell = on_line
        self._foreign = [*foreign, "--only-binary", ":all:"] if foreign else []

    def resolve(
        self,
        requirements: Sequence[str],
        *,
        python: Path,
        constraints: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> tuple[str, ...]:
        """Return exact requirements that meet the wish, sorted.

        :param options: lines of a requirements.txt about indexes.
        :raises BuildError: with the resolver's explanation.
        """
        wish = self._file("requirements.in", [*options, *requirements])
        limits: list[str | Path] = ["--constraints", self._file("constraints.txt", constraints)] if constraints else []
        quiet = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
        stdout = self._uv(
            "pip", "compile", wish, "--python", python, *limits, *self._foreign, *quiet, what="resolve the requirements"
        )
        return tuple(sorted(line.strip() for line in stdout.splitlines() if line.strip()))

    def install(
        self, lock: Sequence[str], *, prefix: Path, python: Path, options: Sequence[str] = (), pylock: str = ""
    ) -> None:
        """Make a venv whose scripts find their interpreter by themselves, with exactly these packages.

        :param options: lines of a requirements.txt about indexes.
        :param pylock: a pylock.toml's text, whose packages are installed, too.
        :raises BuildError: with uv's explanation.
        """
        self._uv("venv", "--relocatable", "--quiet", "--python", python, prefix, what="make a venv")
        self._install(lock, options, pylock, "--python", prefix / "bin" / "python")

    def install_foreign(
        self, lock: Sequence[str], *, target: Path, python: Path, options: Sequence[str] = (), pylock: str = ""
    ) -> None:
        """Put another platform's packages into a directory; their scripts into its `bin`.

        :raises BuildError: with uv's explanation.
        """
        self._install(lock, options, pylock, "--target", target, "--python", python, *self._foreign)

    def add(self, lock: Sequence[str], *, python: Path) -> None:
        """Install exactly these packages for an interpreter, next to what it has.

        :raises BuildError: with uv's explanation.
        """
        self._install(lock, (), "", "--break-system-packages", "--python", python)

    def build_wheel(self, source: Path, target: Path, *, python: Path, title: str) -> None:
        """Build a project's wheel.

        :param source: its directory or sdist; something may be written next to it.
        :param target: directory for the wheel.
        :param title: of the project, for the error's sentence.
        :raises BuildError: with the build backend's own words.
        """
        self._uv("build", "--wheel", "--out-dir", target, "--python", python, source, what=f"build a wheel of {title}")

    def export(self, project: Path, *, extras: Sequence[str], groups: Sequence[str], python: Path) -> Path:
        """Return a pylock.toml of what a project's uv.lock says.

        :raises BuildError: with uv's explanation.
        """
        target = self.scratch / "pylock.toml"
        chosen = [part for extra in extras for part in ("--extra", extra)]
        chosen += [part for group in groups for part in ("--group", group)]
        # The lock is taken as it is: what its project's pyproject.toml says was compared when it was read.
        options = ["--frozen", "--no-default-groups", "--no-emit-project", "--no-header", "--format", "pylock.toml"]
        self._uv(
            "export", "--project", project, "--python", python, *options, *chosen, "--output-file", target,
            what=f"export {project.name}/uv.lock",
        )  # fmt: skip
        return target

    def _install(self, lock: Sequence[str], options: Sequence[str], pylock: str, *where: str | Path) -> None:
        # Symlinks into the cache, which a user's settings may ask for, would not survive the journey.
        common = ["--no-deps", "--link-mode", "hardlink", *where]
        self._installed = self._fetched = 0
        if pylock:
            file = self.scratch / "pylock.sparkdeps.toml"
            file.write_text(pylock, encoding="utf-8")
            self._uv("pip", "install", "--requirements", file, *common, what="install the locked packages")
        if lock:
            # As pip has it: with one hash, all packages must have one.
            strict = ["--require-hashes"] if any("--hash=" in line for line in lock) else []
            file = self._file("requirements.lock", [*options, *lock])
            self._uv("pip", "install", "--requirements", file, *common, *strict, what="install the packages")
        if self._installed:
            self._tell(f"{self._installed - self._fetched} packages from uv's cache, {self._fetched} fetched or built")

    def _file(self, name: str, lines: Sequence[str]) -> Path:
        path = self.scratch / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def _uv(self, *arguments: str | Path, what: str) -> str:
        command = [uv_binary(), *arguments]

        def on_line(line: str) -> None:
            if told := _COUNTED.match(line.strip()):
                self._installed += int(told[2]) if told[1] == "Installed" else 0
                self._fetched += int(told[2]) if told[1] == "Prepared" else 0
            if not line.startswith("Using Python"):
                self._tell(self._without_password(line.strip()))

        done = run(command, deadline=self._deadline, cwd=self.scratch, environ=self._environ(), on_line=on_line)
        if done.code != 0:
            words = one_screen(self._without_password(done.stderr or done.stdout))
            raise BuildError(f"uv could not {what}. It says:\n\n{words}")
        return done.stdout

    def _environ(self) -> dict[str, str]:
        # An interpreter that isn't there is an error to report, not a reason to download for minutes.
        downloads = os.environ.get("UV_PYTHON_DOWNLOADS", "never")
        environ = tool_environ(
            UV_PYTHON_DOWNLOADS=downloads, UV_NO_PROGRESS="1", NO_COLOR="1", SOURCE_DATE_EPOCH=_BUILT_AT
        )
        for name in _OVERRULED:
            environ.pop(name, None)
        # Else uv warns at each use that it takes lock files as an experiment.
        environ["UV_PREVIEW_FEATURES"] = ",".join(filter(None, [environ.get("UV_PREVIEW_FEATURES"), "pylock"]))
        if self._login:
            environ["UV_INDEX"] = f"{_INDEX.lower()}={self._login.url} {environ.get('UV_INDEX', '')}".strip()
        if self._login and (self._login.username or self._login.password):
            # A token alone goes by the name that PyPI made usual for it.
            environ[f"UV_INDEX_{_INDEX}_USERNAME"] = self._login.username or "__token__"
            environ[f"UV_INDEX_{_INDEX}_PASSWORD"] = self._login.password
        return environ

    def _without_password(self, text: str) -> str:
        password = self._login.password if self._login else ""
        for secret in {password, quote(password, safe="")} - {""}:
            text = text.replace(secret, "***")
        return text
