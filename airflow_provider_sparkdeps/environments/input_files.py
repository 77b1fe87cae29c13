"""Reads the local files that environments refer to, and finds where relative paths start."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_PACKAGE = __name__.partition(".")[0]
_CODING = re.compile(rb"#.*?coding[:=][ \t]*([-\w.]+)")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def callers_directory() -> Path:
    """Return the directory of the file that calls this package (the DAG file); in a notebook, the working directory."""
    frame = sys._getframe(1)
    while frame.f_back and _is_own(str(frame.f_globals.get("__name__", ""))):
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    return Path(file).absolute().parent if file else Path.cwd()


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _PACKAGE and not module.startswith(f"{_PACKAGE}.example_dags")


def display_path(path: Path) -> str:
    """Return a path for titles and manifests: unchanged if it is relative, otherwise its last component."""
    return path.name if path.is_absolute() else path.as_posix()


def strip_comment(line: str) -> str:
    """Return a line without its comment and surrounding whitespace."""
    return re.sub(r"(^|\s)#.*", "", line).strip()


def read_text(path: Path, *, referenced_by: str = "") -> str:
    """Return the text of a file that an environment refers to, in any encoding that pip reads.

    :param referenced_by: the file that refers to it, for the error message.
    :raises InvalidArgumentError: if it can't be read.
    """
    content = read_bytes(path, referenced_by=referenced_by)
    declared = next((match[1].decode() for line in content.split(b"\n")[:2] if (match := _CODING.match(line))), "utf-8")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), declared)
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise InvalidArgumentError(f"Could not read {path}: {error}. Save the file as UTF-8.") from error


def read_bytes(path: Path, *, referenced_by: str = "") -> bytes:
    """Return the contents of a file that an environment refers to.

    :param referenced_by: the file that refers to it, for the error message.
    :raises InvalidArgumentError: if it can't be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        by = f" (referenced by {referenced_by})" if referenced_by else ""
        raise InvalidArgumentError(
            f"Could not read {path}{by}: {reason}. Correct the path, and make sure that the file also exists on the"
            " worker that builds."
        ) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Return the data of a TOML file that an environment refers to.

    :raises InvalidArgumentError: if it can't be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgumentError(f"{path} is not TOML: {error}. Correct the file.") from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex.

    :raises InvalidArgumentError: if it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidArgumentError(f"Could not read {path}: {reason}. Correct its path.") from error


def digest_with_mode(path: Path) -> str:
    """Return the sha256 of a file, and whether it is executable.

    :raises InvalidArgumentError: if it can't be read.
    """
    return sha256_of(path) + (" executable" if os.access(path, os.X_OK) else "")
