"""Conda environments that exist: where they are, and what is in them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_PYTHON = re.compile(r"python-(3\.\d+)\.\d+\w*-[^-]+\.json")


def describe(prefix: Path) -> tuple[str, str]:
    """Return the minor version of an environment's Python, and a digest of what is installed in it.

    :raises InvalidArgumentError: when it is no conda environment with a Python.
    """
    try:
        meta = sorted(path.name for path in (prefix / "conda-meta").iterdir() if path.suffix == ".json")
    except OSError as error:
        raise InvalidArgumentError(
            f"{prefix} is no conda environment: {error.strerror}. Give the directory that holds its conda-meta."
        ) from None
    pythons = [found[1] for name in meta if (found := _PYTHON.fullmatch(name))]
    if not pythons:
        raise InvalidArgumentError(f"{prefix} has no Python of conda's, which executors need: install python into it.")
    digest = hashlib.sha256("\n".join(meta).encode())
    # What pip has installed: names, versions and the hashes of all files.
    for record in sorted(prefix.glob("lib/python3.*/site-packages/*.dist-info/RECORD")):
        with contextlib.suppress(OSError):
            digest.update(f"\n{record.parent.name}\n".encode() + record.read_bytes())
    return pythons[0], digest.hexdigest()


def find(name: str) -> Path:
    """Return the directory of a named environment, without asking conda, which need not be on PATH.

    :raises InvalidArgumentError: when there is none.
    """
    looked_in = list(dict.fromkeys(_directories()))
    for directory in looked_in:
        if (directory / name / "conda-meta").is_dir():
            return directory / name
    listed = [Path(line) for line in _known() if Path(line).name == name]
    for path in listed:
        if (path / "conda-meta").is_dir():
            return path
    where = ", ".join(map(str, looked_in)) or "no directory"
    raise InvalidArgumentError(
        f"There is no conda environment {name!r} in {where}, nor in ~/.conda/environments.txt."
        " Give its directory, with CondaEnvironment.from_prefix(...)."
    )


def _directories() -> Iterator[Path]:
    for variable in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH"):
        yield from (Path(entry) for entry in os.environ.get(variable, "").split(os.pathsep) if entry)
    if root := os.environ.get("MAMBA_ROOT_PREFIX"):
        yield Path(root) / "envs"
    if program := os.environ.get("CONDA_EXE"):
        yield Path(program).parent.parent / "envs"
    if active := os.environ.get("CONDA_PREFIX"):
        # Of the base environment, or of one next to which the others are.
        yield Path(active) / "envs"
        yield Path(active).parent
    yield Path.home() / ".conda" / "envs"


def _known() -> list[str]:
    try:
        return (Path.home() / ".conda" / "environments.txt").read_text().split("\n")
    except OSError:
        return []
