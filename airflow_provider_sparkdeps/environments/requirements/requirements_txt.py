"""requirements.txt, with all the files that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.environments.input_files import read_text
from airflow_provider_sparkdeps.environments.requirements.pep508 import (
    refuse_credentials,
    spell,
    split_local,
    without_comment,
)
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

_OPTION = re.compile(r"(?P<name>--?[a-z-]+)(?:\s*=\s*|\s+|$)(?P<value>.*)", re.DOTALL)
_SHORT = {"-r": "--requirement", "-c": "--constraint", "-i": "--index-url", "-f": "--find-links", "-e": "--editable"}
# What uv reads in a requirements.txt, and what says nothing that uv doesn't do anyway.
_INDEXES = {"--index-url", "--extra-index-url", "--find-links"}
_CHOICES = {"--no-binary", "--only-binary"}
_IDLE = {"--prefer-binary", "--require-hashes"}
_HASH = re.compile(r"\s--hash(?:=|\s+)(\S+)")


class _LineError(InvalidArgumentError):
    """An InvalidArgumentError whose message already names the file."""


def read_requirements(path: Path) -> RequirementSet:
    """Return what a requirements.txt wants, and the files that it names by `-r` and `-c`.

    :raises InvalidArgumentError: when a file can't be read, or a line can't be meant; the message names file and line.
    """
    return _read(path, as_constraints=False, above=())


def _read(path: Path, *, as_constraints: bool, above: tuple[Path, ...]) -> RequirementSet:
    if path.resolve() in above:
        return RequirementSet()
    text = read_text(path, named_by=str(above[-1]) if above else "")
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
    """Yield lines that say something, joined where a backslash says so, with the number that they start at."""
    start = 1
    parts: list[str] = []
    for number, raw in enumerate([*text.splitlines(), ""], 1):
        start = start if parts else number
        # pip ends a comment at the line's end, also within joined lines.
        comment = raw.lstrip().startswith("#")
        continues = raw.endswith("\\") and not comment
        parts.append("" if comment and parts else raw.removesuffix("\\") if continues else raw)
        if not continues and not (comment and len(parts) > 1):
            line = without_comment(" ".join(parts))
            parts = []
            if line:
                yield start, line


def _line(line: str, path: Path, *, as_constraints: bool, above: tuple[Path, ...]) -> RequirementSet:
    if re.search(r"\$\{[A-Z0-9_]+\}", line):
        raise InvalidArgumentError(
            "variables such as ${TOKEN} are not filled in, since no key could tell their values apart. Write the value,"
            " or, for a private index, use index_conn_id."
        )
    option = _OPTION.fullmatch(line) if line.startswith("-") else None
    name = _SHORT.get(option["name"], option["name"]) if option else "--editable"
    if option is None or name == "--editable":
        return _requirement(line, path, as_constraints=as_constraints)
    value = option["value"].strip().strip("\"'")
    if name in ("--requirement", "--constraint"):
        if "://" in value:
            raise InvalidArgumentError(
                f"{redact(value)} is not on this machine. Keep a copy next to this file, and name that."
            )
        return _read(path.parent / value, as_constraints=as_constraints or name == "--constraint", above=above)
    if name in _INDEXES:
        if "://" not in value or value.startswith("file:"):
            raise InvalidArgumentError(f"{name} {value} leads to this machine. Name wheels by path: './wheels/x.whl'.")
        refuse_credentials(value, name)
        return RequirementSet(options=(f"{name} {value}",))
    if name in _CHOICES or (name == "--no-index" and not value):
        return RequirementSet(options=(f"{name} {value}".strip(),))
    if name in _IDLE:
        return RequirementSet()
    raise InvalidArgumentError(
        f"option {option['name']} is not known here. Take it out, or set it where uv reads its settings."
    )


def _requirement(line: str, path: Path, *, as_constraints: bool) -> RequirementSet:
    hashes = sorted(set(_HASH.findall(line)))
    spelled = spell(_HASH.sub("", line).strip())
    wanted = split_local([spelled], path.parent)
    if wanted.locals:
        if as_constraints:
            raise InvalidArgumentError(
                "a constraint is a name with versions, not a path. Name the path in a requirements file."
            )
        # Its content is in the key as it is: a hash adds nothing.
        return wanted
    line = " ".join([spelled, *(f"--hash={each}" for each in hashes)])
    return RequirementSet(constraints=(line,)) if as_constraints else RequirementSet(requirements=(line,))
