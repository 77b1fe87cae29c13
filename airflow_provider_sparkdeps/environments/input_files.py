"""Reads the local files that environments refer to, and finds where relative paths start."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_PACKAGE = __name__.partition(".")[0]
# Files that tools, editors and builds leave in a project, at any depth and in its top directory.
_LEFTOVERS = {
    ".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", ".eggs", ".idea", ".vscode", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", "__pycache__", "node_modules", ".DS_Store",
}  # fmt: skip
_LEFTOVERS_AT_TOP = {"build", "dist"}


def callers_directory() -> Path:
    """Return the directory of the file that calls this package (the DAG file); in a notebook, the working directory."""
    frame = sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__", "")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return Path(file).absolute().parent if file else Path.cwd()


def display_path(path: Path) -> str:
    """Return a path for titles and manifests: unchanged if it is relative, otherwise its last component."""
    return path.name if path.is_absolute() else path.as_posix()


def strip_comment(line: str) -> str:
    """Return a line without its comment and surrounding whitespace."""
    return re.sub(r"(^|\s)#.*", "", line).strip()


def read_text(path: Path, *, referenced_by: str = "") -> str:
    """Return the text of a file that an environment refers to.

    :param referenced_by: the file that refers to it, for the error message.
    :raises InvalidArgumentError: if it can't be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        by = f" (referenced by {referenced_by})" if referenced_by else ""
        raise InvalidArgumentError(
            f"Could not read {path}{by}: {reason}. Write its path relative to the file that refers to it, and make sure"
            " that it also exists on the worker that builds."
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return the data of a TOML file that an environment refers to.

    :raises InvalidArgumentError: if it can't be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"{path} is not TOML: {error}. Correct the file.") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex.

    :raises InvalidArgumentError: if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidArgumentError(f"Could not read {path}: {error.strerror}. Correct its path.") from error


def project_files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative names and paths of a project's files, sorted, without those that tools and builds create."""
    seen: set[str] = set()
    found = []
    for directory, names, files in os.walk(root, followlinks=True):
        here = Path(directory)
        real = os.path.realpath(here)
        # A link to a parent directory would be followed forever.
        names[:] = [] if real in seen else [name for name in names if not _is_leftover(name, at_top=here == root)]
        if real not in seen:
            found += [here / name for name in files if not _is_leftover(name, at_top=False)]
        seen.add(real)
    yield from sorted((path.relative_to(root).as_posix(), path) for path in found)


def _is_leftover(name: str, *, at_top: bool) -> bool:
    return name in _LEFTOVERS or name.endswith((".egg-info", ".pyc")) or (at_top and name in _LEFTOVERS_AT_TOP)
