"""Local files that environments refer to: where relative paths start, and how files are read."""

from __future__ import annotations

import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_PACKAGE = __name__.partition(".")[0]
# What tools, editors and builds leave in a project's folder, at any depth and at its top.
_LEFTOVERS = {
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".eggs", ".idea", ".vscode", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", "__pycache__", "node_modules", ".DS_Store",
}  # fmt: skip
_LEFTOVERS_AT_TOP = {"build", "dist"}


def callers_directory() -> Path:
    """Return the directory of the file that calls this package, such as a DAG file; in a notebook, the current one."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return Path(file).absolute().parent if file else Path.cwd()


def as_written(path: Path) -> str:
    """Return a path for manifests: a relative one as it is, an absolute one's last name."""
    return path.name if path.is_absolute() else path.as_posix()


def read_text(path: Path, *, named_by: str = "") -> str:
    """Return the text of a file that an environment refers to.

    :param named_by: what names it, for the error's sentence.
    :raises InvalidArgumentError: when it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        by = f", which {named_by} names," if named_by else ""
        raise InvalidArgumentError(
            f"{path}{by} can't be read: {reason}. Write its path relative to the file that names it, and see that it"
            " is where the environment is built, too."
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return the data of a TOML file that an environment refers to.

    :raises InvalidArgumentError: when it can't be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"{path} is not TOML: {error}. Correct it there.") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex.

    :raises InvalidArgumentError: when it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidArgumentError(
            f"{path} can't be read: {error.strerror}. Correct its path, or make the file."
        ) from error


def project_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a project by relative name, sorted, without what tools, editors and builds leave there."""
    seen: set[str] = set()
    found = []
    for directory, names, files in os.walk(root, followlinks=True):
        here = Path(directory)
        real = os.path.realpath(here)
        # A link back to a folder above would lead in circles.
        names[:] = [] if real in seen else [name for name in names if not _is_leftover(name, at_top=here == root)]
        if real not in seen:
            found += [here / name for name in files if not _is_leftover(name, at_top=False)]
        seen.add(real)
    yield from sorted((path.relative_to(root).as_posix(), path) for path in found)


def _is_leftover(name: str, *, at_top: bool) -> bool:
    return name in _LEFTOVERS or name.endswith((".egg-info", ".pyc")) or (at_top and name in _LEFTOVERS_AT_TOP)
