"""What uv does for us: resolve requirements, make a venv, install into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

from airflow_provider_sparkdeps.environments.base import Login
from airflow_provider_sparkdeps.environments.process import Deadline, run, tool_environ
from airflow_provider_sparkdeps.environments.words import one_screen
from airflow_provider_sparkdeps.errors import BuildError

# Settings of the user's that would make another prefix than the one that is asked for.
_OVERRULED = (
    "UV_COMPILE_BYTECODE", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_PROJECT", "UV_VENV_SEED",
    "UV_REQUIRE_HASHES",
)  # fmt: skip


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
    :param index: a private index, to use instead of the one that uv is set up for.
    """

    def __init__(
        self, scratch: Path, *, deadline: Deadline, on_line: Callable[[str], None], index: Login | None = None
    ) -> None:
        self._scratch = scratch
        self._deadline = deadline
        self._on_line = on_line
        self._index = index

    def resolve(self, requirements: Sequence[str], *, python: Path, constraints: Sequence[str] = ()) -> tuple[str, ...]:
        """Return exact requirements that meet the wish, sorted.

        :param constraints: versions that must be used wherever these packages are.
        :raises BuildError: with the resolver's explanation.
        """
        wish = self._file("requirements.in", requirements)
        options = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
        if constraints:
            options += ["--constraints", str(self._file("constraints.txt", constraints))]
        stdout = self._uv("pip", "compile", wish, "--python", python, *options, what="resolve the requirements")
        return tuple(sorted(line.strip() for line in stdout.splitlines() if line.strip()))

    def install(self, lock: Sequence[str], *, prefix: Path, python: Path) -> None:
        """Make a venv whose scripts find their interpreter by themselves, with exactly these packages.

        :raises BuildError: with uv's explanation.
        """
        self._uv("venv", "--relocatable", "--quiet", "--python", python, prefix, what="make a venv")
        # Symlinks into the cache, which a user's settings may ask for, would not survive the journey.
        options = ["--no-deps", "--link-mode", "hardlink", "--python", str(prefix / "bin" / "python")]
        locked = self._file("requirements.lock", lock)
        self._uv("pip", "install", "--requirements", locked, *options, what="install the packages")

    def add(self, lock: Sequence[str], *, python: Path) -> None:
        """Install exactly these packages for an interpreter, next to what it has.

        :raises BuildError: with uv's explanation.
        """
        options = ["--no-deps", "--link-mode", "hardlink", "--break-system-packages", "--python", str(python)]
        locked = self._file("requirements.lock", lock)
        self._uv("pip", "install", "--requirements", locked, *options, what="install the packages")

    def _file(self, name: str, lines: Sequence[str]) -> Path:
        path = self._scratch / name
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    def _uv(self, *arguments: str | Path, what: str) -> str:
        # An interpreter that isn't there is an error to report, not a reason to download for minutes.
        downloads = os.environ.get("UV_PYTHON_DOWNLOADS", "never")
        environ = tool_environ(UV_PYTHON_DOWNLOADS=downloads, UV_NO_PROGRESS="1", NO_COLOR="1")
        for name in _OVERRULED:
            environ.pop(name, None)
        if self._index:
            environ["UV_DEFAULT_INDEX"] = _with_login(self._index)
        command = [uv_binary(), *arguments]

        def on_line(line: str) -> None:
            if not line.startswith("Using Python"):
                self._on_line(line.strip())

        done = run(command, deadline=self._deadline, cwd=self._scratch, environ=environ, on_line=on_line)
        if done.code != 0:
            raise BuildError(f"uv could not {what}. It says:\n\n{one_screen(done.stderr or done.stdout)}")
        return done.stdout


def _with_login(index: Login) -> str:
    if not index.password:
        return index.url
    scheme, _, rest = index.url.partition("://")
    # An index that wants a token only takes it with any user name.
    user = quote(index.username or "__token__", safe="")
    return f"{scheme}://{user}:{quote(index.password, safe='')}@{rest}"
