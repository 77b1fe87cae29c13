"""Reads installed conda environments: where they are, and what is installed in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.environments.conda import activation
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_PYTHON = re.compile(r"python-(3\.\d+\.\d+\w*)-[^-]+\.json")


def python_version(prefix: Path) -> str:
    """Return the version of Python in an environment, such as "3.12.1".

    :raises InvalidArgumentError: if it is not a conda environment with Python.
    """
    for name in _package_files(prefix):
        if match := _PYTHON.fullmatch(name):
            return match[1]
    raise InvalidArgumentError(f"{prefix} has no Python from conda, which executors need. Install python into it.")


def digest(prefix: Path) -> str:
    """Return a digest of the packages that conda and pip have installed in an environment, and of its variables.

    :raises InvalidArgumentError: if it is not a conda environment.
    """
    found = hashlib.sha256("\n".join(_package_files(prefix)).encode())
    # Packages of pip: names, versions and the hashes of all files.
    records = sorted(prefix.glob("lib/python3.*/site-packages/*.dist-info/RECORD"))
    for path in [*records, *activation.input_files(prefix)]:
        with contextlib.suppress(OSError):
            name = path.parent.name if path in records else path.name
            found.update(f"\n{name}\n".encode() + path.read_bytes())
    return found.hexdigest()


def lock(prefix: Path) -> tuple[str, ...]:
    """Return the exact packages of an environment: conda's by its records, others by their metadata."""
    found = []
    for path in (prefix / "conda-meta").glob("*.json"):
        meta = json.loads(path.read_text(encoding="utf-8"))
        checksum = next((f" {each}:{meta[each]}" for each in ("sha256", "md5") if meta.get(each)), "")
        found.append(f"{meta['name']}={meta['version']}={meta['build']}{checksum}")
    for installer in prefix.glob("lib/python3.*/site-packages/*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8").strip() not in ("conda", ""):
            name, _, version = installer.parent.name.removesuffix(".dist-info").partition("-")
            found.append(f"pip:{name.replace('_', '-').lower()}=={version}")
    return tuple(sorted(found))


def find(name: str) -> Path:
    """Return the directory of a named environment; conda need not be installed.

    :raises InvalidArgumentError: if there is none.
    """
    searched = list(dict.fromkeys(_environment_directories()))
    listed = [Path(line) for line in _environments_txt() if Path(line).name == name]
    for path in [*(directory / name for directory in searched), *listed]:
        if (path / "conda-meta").is_dir():
            return path
    raise InvalidArgumentError(
        f"There is no conda environment {name!r} in {', '.join(map(str, searched))} or in ~/.conda/environments.txt."
        " Correct the name, or pass the directory to CondaEnvironment.from_prefix(...)."
    )


def _package_files(prefix: Path) -> list[str]:
    try:
        return sorted(path.name for path in (prefix / "conda-meta").iterdir() if path.suffix == ".json")
    except OSError as error:
        raise InvalidArgumentError(
            f"{prefix} is not a conda environment: {error.strerror}. Pass the directory that contains conda-meta."
        ) from None


def _environment_directories() -> Iterator[Path]:
    for variable in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH"):
        yield from (Path(entry) for entry in os.environ.get(variable, "").split(os.pathsep) if entry)
    if root := os.environ.get("MAMBA_ROOT_PREFIX"):
        yield Path(root) / "envs"
    if program := os.environ.get("CONDA_EXE"):
        yield Path(program).parent.parent / "envs"
    if active := os.environ.get("CONDA_PREFIX"):
        # The active environment is either the base environment or one among the others.
        yield Path(active) / "envs"
        yield Path(active).parent
    yield Path.home() / ".conda" / "envs"


def _environments_txt() -> list[str]:
    try:
        return (Path.home() / ".conda" / "environments.txt").read_text().split("\n")
    except OSError:
        return []
