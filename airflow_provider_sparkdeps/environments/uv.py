"""Runs uv: resolves requirements, creates venvs, installs packages, builds wheels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from airflow_provider_sparkdeps.environments.context import BuildContext, Login
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.processes import CompletedTool, run, tool_environ
from airflow_provider_sparkdeps.utils.text import shorten_output

# Settings of the worker that would change what is installed, or where: the files say that.
_OVERRULED = re.compile(
    r"UV_(COMPILE_BYTECODE|PYTHON|SYSTEM_PYTHON|TARGET|PREFIX|PROJECT|PROJECT_ENVIRONMENT|VENV_\w+|ENV_FILE|ISOLATED"
    r"|REQUIRE_HASHES|NO_VERIFY_HASHES|SKIP_WHEEL_FILENAME_CHECK|LOCKED|FROZEN|WORKING_DIR(ECTORY)?|OVERRIDE"
    r"|CONSTRAINT|BUILD_CONSTRAINT|EXCLUDE|NO_SOURCES(_PACKAGE)?|DEV|NO_DEV|NO_GROUP|NO_DEFAULT_GROUPS|NO_EDITABLE|NO_CONFIG"
    r"|(NO|ONLY)_INSTALL_\w+)|SETUPTOOLS_SCM_PRETEND_\w+"
)

# An archive must not depend on when its wheels were built. Zip files have no earlier time in any time zone.
_BUILT_AT = "315619200"
_INDEX = "SPARKDEPS"
_PASSWORD = re.compile(r"UV_INDEX_\w+_PASSWORD")
# uv "prepares" packages that are not in its cache yet.
_INDEX_OF = re.compile(r"^([\w.-]+)==\S+.*\n(?: .*\n)*? *# from (https?://\S+)$", re.MULTILINE)
_IGNORED = re.compile(
    r"Ignoring unsupported option.*|Failed to parse.*during settings discovery.*(\n .*)*|Found both a `uv.*(\n- .*)*"
)
_COUNTED = re.compile(r"(Prepared|Installed) (\d+) packages? in")


def is_set(name: str) -> bool:
    """Whether an environment variable is set to what uv reads as true."""
    return os.environ.get(name, "").lower() not in ("", "0", "false", "f", "no", "n", "off")


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
        self.shown_as: dict[str, str] = {}
        """What users see instead of paths of copies."""
        # uv reads the settings of the nearest parent directory that has some.
        self.file("uv.toml", [])
        self._context = context
        self._login = login
        self._phase = "resolve"
        self._installed = self._fetched = 0
        overruled = sorted(set(filter(_OVERRULED.fullmatch, os.environ)) - {"UV_REQUIRE_HASHES"})
        if overruled:
            self._report(f"settings of this worker that do not apply here: {', '.join(overruled)}")
        self._cross_platform = [*cross_platform, "--only-binary", ":all:"] if cross_platform else []

    def compile(
        self,
        directory: Path,
        *arguments: str | Path,
        python: Path,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> tuple[Path, dict[str, str]]:
        """Resolve requirements to exact packages.

        :param directory: where uv starts, whose settings it reads.
        :param arguments: files and options of `uv pip compile`.
        :return: a pylock.toml, and the index of each package, by its name.
        :raises BuildError: if there is no solution; with uv's output.
        """
        command: list[str | Path] = [
            "pip", "compile", *arguments, *_selection(extras, groups), "--python", python, *self._cross_platform,
            "--no-header", "--no-annotate",
        ]  # fmt: skip
        output: list[str | Path] = ["--format", "pylock.toml", "--output-file", self._pylock]
        self._uv(*command, *output, what="resolve the requirements", directory=directory)
        # uv names no index in this pylock.toml, and without it, would download all packages again at each installation.
        again = [uv_binary(), *command, "--offline", "--emit-index-annotation"]
        listed = run(again, deadline=self._context.deadline, cwd=directory, environ=self._environ()).stdout
        return self._pylock, {name: url for name, url in _INDEX_OF.findall(listed) if "@" not in url}

    def export(
        self,
        directory: Path,
        *arguments: str | Path,
        python: Path,
        title: str,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Path:
        """Return a pylock.toml with the packages of a uv.lock or a script.

        :param directory: of the project, where uv starts.
        :param arguments: options of `uv export`.
        :param title: path of the project or script, for the error.
        :raises BuildError: if it fails, such as for a lock that is older than its project; with uv's output.
        """
        self._uv(
            "export", *arguments, *_selection(extras, groups), "--python", python, "--no-default-groups",
            "--no-header", "--format", "pylock.toml", "--output-file", self._pylock,
            what=f"read the lock of {title}, which must agree with it and with the settings of this worker",
            directory=directory,
        )  # fmt: skip
        return self._pylock

    def create_venv(self, prefix: Path, *, python: Path) -> None:
        """Create a venv without packages, whose scripts will run the interpreter next to them.

        :raises BuildError: if it fails; with uv's output.
        """
        self._uv("venv", "--relocatable", "--quiet", "--python", python, prefix, what="make a venv")

    def install(
        self,
        *where: str | Path,
        pylock: str = "",
        wheels: Sequence[Path] = (),
        as_written: Path | None = None,
        directory: Path | None = None,
    ) -> None:
        """Install exactly these packages.

        :param where: options of uv, such as those that name the interpreter or the directory.
        :param pylock: contents of a pylock.toml.
        :param wheels: local ones.
        :param as_written: instead of a pylock.toml, a requirements.txt.
        :param directory: where uv starts, whose settings it reads; by default the scratch directory.
        :raises BuildError: if it fails; with uv's output.
        """
        # The user's settings may ask for symlinks into the cache, which executors do not have.
        common = ["--link-mode", "hardlink", "--no-compile-bytecode", *where, *self._cross_platform]
        what = "install the packages"
        self._phase = "install"
        self._installed = self._fetched = 0
        if as_written:
            self._uv("pip", "install", "--requirements", as_written, *common, what=what, directory=directory)
        elif pylock:
            locked = self.file("pylock.sparkdeps.toml", pylock.splitlines())
            self._uv("pip", "install", "--no-deps", "--requirements", locked, *common, what=what, directory=directory)
        if wheels:
            # Local files were compared with the key or a lock.
            common = [each for each in common if each != "--require-hashes"]
            self._uv("pip", "install", "--no-deps", *common, *wheels, what=what, directory=directory)
        if self._installed:
            self._report(
                f"{self._installed - self._fetched} packages from uv's cache, {self._fetched} fetched or built"
            )

    def build_wheel(
        self, source: Path, target: Path, *, python: Path, title: str, directory: Path | None = None
    ) -> None:
        """Build a project's wheel.

        :param source: its directory or sdist. The build may write to it.
        :param target: directory for the wheel.
        :param title: name of the project, for the error.
        :param directory: where uv starts, whose settings it reads; by default the scratch directory.
        :raises BuildError: if the build fails; with the output of the build backend.
        """
        command: list[str | Path] = ["build", "--wheel", "--out-dir", target, "--python", python, source]
        self._uv(*command, what=f"build a wheel of {title}", directory=directory)

    def file(self, name: str, lines: Sequence[str]) -> Path:
        """Write a file for uv to the scratch directory."""
        path = self.scratch / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    @property
    def _pylock(self) -> Path:
        return self.scratch / "pylock.toml"

    def _uv(self, *arguments: str | Path, what: str, directory: Path | None = None) -> CompletedTool:
        secrets = [value for name, value in os.environ.items() if _PASSWORD.fullmatch(name)]
        secrets += [self._login.password] if self._login else []

        def on_line(line: str) -> None:
            if counted := _COUNTED.match(line.strip()):
                self._installed += int(counted[2]) if counted[1] == "Installed" else 0
                self._fetched += int(counted[2]) if counted[1] == "Prepared" else 0
            if not line.startswith("Using Python"):
                self._report(line.strip())

        deadline, environ = self._context.deadline, self._environ()
        command = [uv_binary(), *arguments]
        done = run(
            command, deadline=deadline, cwd=directory or self.scratch, environ=environ, on_line=on_line, secrets=secrets
        )
        output = done.stderr or done.stdout
        for copy, original in self.shown_as.items():
            output = output.replace(copy, original)
        if done.code != 0:
            output = shorten_output(output, secrets)
            raise BuildError(f"uv could not {what}. Its output:\n\n{output}")
        if ignored := _IGNORED.search(output):
            raise BuildError(f"uv would ignore something: {ignored[0].strip()}. Correct or remove it.")
        return done

    def _report(self, line: str) -> None:
        self._context.report(self._phase, line)

    def _environ(self) -> dict[str, str]:
        # A missing interpreter is reported as an error, unless the user allows uv to download it.
        downloads = os.environ.get("UV_PYTHON_DOWNLOADS", "never")
        environ = tool_environ(
            TMPDIR=str(self.scratch),
            UV_PYTHON_DOWNLOADS=downloads,
            UV_NO_PROGRESS="1",
            UV_NO_WRAP="1",
            NO_COLOR="1",
            SOURCE_DATE_EPOCH=_BUILT_AT,
        )
        environ = {name: value for name, value in environ.items() if not _OVERRULED.fullmatch(name)}
        # Otherwise uv warns at each use that its support of lock files is experimental.
        environ["UV_PREVIEW_FEATURES"] = ",".join(filter(None, [environ.get("UV_PREVIEW_FEATURES"), "pylock"]))
        if self._login:
            environ["UV_INDEX"] = f"{_INDEX.lower()}={self._login.url} {environ.get('UV_INDEX', '')}".strip()
        if self._login and (self._login.username or self._login.password):
            # The user name that PyPI asks for with a token.
            environ[f"UV_INDEX_{_INDEX}_USERNAME"] = self._login.username or "__token__"
            environ[f"UV_INDEX_{_INDEX}_PASSWORD"] = self._login.password
        return environ


def _selection(extras: Sequence[str], groups: Sequence[str]) -> list[str]:
    chosen = [part for extra in extras for part in ("--extra", extra)]
    return chosen + [part for group in groups for part in ("--group", group)]
