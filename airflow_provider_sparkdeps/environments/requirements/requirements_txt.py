"""Reads requirements.txt files, and the files that they include."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.environments.input_files import read_text, strip_comment
from airflow_provider_sparkdeps.environments.requirements.pep508 import (
    normalize_requirement,
    refuse_credentials,
    split_local,
)
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

_OPTION = re.compile(r"(?P<name>--?[a-z-]+)(?:\s*=\s*|\s+|$)(?P<value>.*)", re.DOTALL)
_SHORT = {"-r": "--requirement", "-c": "--constraint", "-i": "--index-url", "-f": "--find-links", "-e": "--editable"}
# Options that uv reads in a requirements.txt, and options for what uv does anyway.
_INDEXES = {"--index-url", "--extra-index-url", "--find-links"}
_CHOICES = {"--no-binary", "--only-binary"}
_IGNORED = {"--prefer-binary", "--require-hashes"}
_HASH = re.compile(r"\s--hash(?:=|\s+)(\S+)")


class _LineError(InvalidArgumentError):
    """An InvalidArgumentError whose message already contains the file and line."""


def read_requirements(path: Path) -> RequirementSet:
    """Return the requirements of a requirements.txt, and of the files that it includes by `-r` and `-c`.

    :raises InvalidArgumentError: if a file can't be read, or a line is invalid; with the file and line.
    """
    return _read(path, as_constraints=False, above=())


def _read(path: Path, *, as_constraints: bool, above: tuple[Path, ...]) -> RequirementSet:
    if path.resolve() in above:
        return RequirementSet()
    text = read_text(path, referenced_by=str(above[-1]) if above else "")
    wanted = RequirementSet()
    for number, line in _lines(text):
        try:
            wanted += _line(line, path, as_constraints=as_constraints, above=(*above, path.resolve()))
        except _LineError:
            raise
        except InvalidArgumentError as error:
            raise _LineError(f"{path}, line {number}: {error}") from None
    return wanted


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


def _line(line: str, path: Path, *, as_constraints: bool, above: tuple[Path, ...]) -> RequirementSet:
    if re.search(r"\$\{[A-Z0-9_]+\}", line):
        raise InvalidArgumentError(
            "Environment variables such as ${TOKEN} are not supported, since the key would not depend on their values."
            " Write the value. For a private index, use index_conn_id."
        )
    option = _OPTION.fullmatch(line) if line.startswith("-") else None
    name = _SHORT.get(option["name"], option["name"]) if option else "--editable"
    if option is None or name == "--editable":
        return _requirement(line, path, as_constraints=as_constraints)
    value = option["value"].strip().strip("\"'")
    if name in ("--requirement", "--constraint"):
        if "://" in value:
            raise InvalidArgumentError(
                f"{redact(value)} is not a local file. Save a copy next to this file, and write its path."
            )
        return _read(path.parent / value, as_constraints=as_constraints or name == "--constraint", above=above)
    if name in _INDEXES:
        if "://" not in value or value.startswith("file:"):
            raise InvalidArgumentError(
                f"{name} {value} is not a URL. Write the paths of local wheels: './wheels/x.whl'."
            )
        refuse_credentials(value, name)
        return RequirementSet(options=(f"{name} {value}",))
    if name in _CHOICES or (name == "--no-index" and not value):
        return RequirementSet(options=(f"{name} {value}".strip(),))
    if name in _IGNORED:
        return RequirementSet()
    raise InvalidArgumentError(
        f"Option {option['name']} is not supported. Remove it, or set it in the configuration of uv."
    )


def _requirement(line: str, path: Path, *, as_constraints: bool) -> RequirementSet:
    hashes = sorted(set(_HASH.findall(line)))
    normalized = normalize_requirement(_HASH.sub("", line).strip())
    wanted = split_local([normalized], path.parent)
    if wanted.local_projects:
        if as_constraints:
            raise InvalidArgumentError(
                "A constraint must be a name with versions, not a path. Move the path to a requirements file."
            )
        # Its hash is not needed: its contents are part of the key.
        return wanted
    line = " ".join([normalized, *(f"--hash={each}" for each in hashes)])
    return RequirementSet(constraints=(line,)) if as_constraints else RequirementSet(requirements=(line,))
