"""Finds the files that a requirements.txt refers to, and writes it as uv can read it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.environments.input_files import read_text, strip_comment
from airflow_provider_sparkdeps.environments.requirements.input_tree import check_strings
from airflow_provider_sparkdeps.environments.requirements.pep508 import is_local, split_path
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

_OPTION = re.compile(r"(?P<name>-[rceif](?=[^-])|--?[a-z-]+)(?:\s*=\s*|\s*)(?P<value>.*)", re.DOTALL)
_LONG = {"-r": "--requirement", "-c": "--constraint", "-f": "--find-links", "-i": "--index-url", "-e": "--editable"}
_QUOTED = re.compile(r"""^(["'])(.*)\1$""")
_PLACES = ("--find-links", "--index-url", "--extra-index-url")
_FLAGS = ("--pre", "--require-hashes")
_LOCAL_URL = re.compile(r"(^|[\s@+])file:|^[\w.-]++\s*+(\[[^\]]*+\])?\s*+@\s*+(?![\w+.-]{1,40}:)")


class RequirementsFiles:
    """A requirements.txt and the files that it includes by `-r` and `-c`.

    uv parses them. This class only finds the local paths in them, and translates what pip reads and uv does not: other
    encodings, options without a space, and options that uv has on its command line.
    """

    def __init__(self) -> None:
        self.requirements: list[str] = []
        """Requirements of all files, as they are written."""
        self.options: list[str | Path] = []
        """Options of uv that correspond to options in the files."""
        self._files: dict[Path, list[str]] = {}

    def read(self, path: Path, *, referenced_by: str = "") -> None:
        """Read a file and the files that it includes.

        :raises InvalidArgumentError: if a file can't be read, or contains credentials or variables.
        """
        if path in self._files:
            return
        text = read_text(path, referenced_by=referenced_by)
        lines = self._files[path] = []
        for number, line in _lines(text):
            try:
                lines += filter(None, self._line(line, path).split("\n"))
            except InvalidArgumentError as error:
                located = f"{path}, line {number}: "
                raise InvalidArgumentError(("" if ", line " in str(error) else located) + str(error)) from None

    def texts(self, directory: Path) -> tuple[tuple[Path, str, str], ...]:
        """Return the files with their texts as written (without comments), and for uv. The latter include each other
        by the names of `text_name`, and have absolute paths.

        :param directory: to which local paths are relative.
        """
        return tuple(
            (
                path,
                "\n".join(lines),
                "".join(f"{for_uv(line, directory) if is_requirement(line) else line}\n" for line in lines),
            )
            for path, lines in self._files.items()
        )

    def _line(self, line: str, path: Path) -> str:
        check_strings(line, path)
        if not line.startswith("-"):
            return self._requirement(line)
        # A line may have several options.
        parts = re.split(r"(?<!\s)\s++(?=--?[a-z])", line)
        return "\n".join(filter(None, (self._option(part, path) for part in parts)))

    def _option(self, part: str, path: Path) -> str:
        option = _OPTION.fullmatch(part)
        if option is None:
            return part
        name, value = _LONG.get(option["name"], option["name"]), _QUOTED.sub(r"\2", option["value"].strip())
        if name == "--editable":
            return self._requirement(value)
        if name in ("--requirement", "--constraint"):
            if "://" in value:
                raise InvalidArgumentError(
                    f"{redact(value)} is not a local file. Save a copy next to this file, and write its path."
                )
            included = Path(os.path.normpath(path.parent / Path(value).expanduser()))
            self.read(included, referenced_by=str(path))
            return f"{name} {text_name(list(self._files).index(included))}"
        if name in _PLACES and "://" not in value:
            self._add_options(name, Path(os.path.normpath(path.parent / value)))
        elif name in _FLAGS and value:
            raise InvalidArgumentError(f"{name} has no value, but {value[:200]!r} follows it. Remove that.")
        elif name == "--pre":
            self._add_options("--prerelease", "allow")
        elif name == "--trusted-host":
            self._add_options("--allow-insecure-host", value)
        elif name == "--require-hashes":
            self._add_options("--require-hashes")
        elif name in ("--only-binary", "--no-binary"):
            return "\n".join(f"{name} {each.strip()}" for each in value.split(","))
        else:
            return f"{name} {value}"
        return ""

    def _requirement(self, line: str) -> str:
        if _LOCAL_URL.search(line):
            raise InvalidArgumentError(
                f"{redact(line[:200])!r} has a local URL. Write only its path, such as './my_lib'."
            )
        if re.search(r"\s--hash", line):
            # As with pip: if one package has a hash, all need one.
            self._add_options("--require-hashes")
        self.requirements.append(line)
        return line

    def _add_options(self, *options: str | Path) -> None:
        if list(options) not in (self.options[at : at + len(options)] for at in range(len(self.options))):
            self.options += options


def text_name(number: int) -> str:
    """Return the name of the file with one of the texts."""
    return f"requirements-{number}.txt"


def is_requirement(line: str) -> bool:
    """Whether a line of a requirements.txt is not an option."""
    return bool(line) and not line.startswith("-")


def for_uv(line: str, directory: Path) -> str:
    """Return a requirement for uv, with a local path relative to the root directory, where uv starts."""
    if not is_local(line):
        return line
    path, rest = split_path(line)
    return f".{os.path.normpath(directory / Path(path).expanduser())}{rest}"


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, joined at backslashes, with the number of their first line."""
    start = 1
    parts: list[str] = []
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        start = start if parts else number
        # As in pip, a comment ends with its line, even among joined lines.
        comment = raw.lstrip().startswith("#")
        continues = raw.endswith("\\") and not comment
        parts.append("" if comment and parts else raw.removesuffix("\\") if continues else raw)
        if not continues and not (comment and len(parts) > 1):
            line = strip_comment(" ".join(parts))
            parts = []
            if line:
                yield start, line
