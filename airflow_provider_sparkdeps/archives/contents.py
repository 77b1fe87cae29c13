"""Scan of a prefix before it is packed: its contents, and checks that it works on other machines."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from airflow_provider_sparkdeps.archives.manifest import Contents
from airflow_provider_sparkdeps.environments.prefix.site_packages import distributions
from airflow_provider_sparkdeps.exceptions import ArchiveError
from airflow_provider_sparkdeps.utils.elf import MAGIC, read_dynamic
from airflow_provider_sparkdeps.utils.text import join_limited

_GLIBC = re.compile(rb"GLIBC_(2\.\d+)(?:\.\d+)?\0")
_NAMED = 10
_BLOCK = 1 << 20
_LONGEST_NAME = 24


def scan_prefix(prefix: Path, *, interpreter: str | None, glibc: str | None = None) -> Contents:
    """Return the contents of a prefix, and check that it works on executors.

    :param prefix: the directory that will be packed.
    :param interpreter: path of the interpreter in the prefix; None if there is none.
    :param glibc: the version on executors, e.g. "2.28"; None to skip the check.
    :raises ArchiveError: if the interpreter is missing, a script calls an interpreter by its path on this machine, or
        native code requires a newer glibc than executors have.
    """
    if interpreter is not None and not os.access(prefix / interpreter, os.X_OK):
        raise ArchiveError(
            f"The environment has no interpreter: {interpreter} is missing or not executable. Build it again."
        )
    _check_shebangs(prefix)
    count, total = 0, 0
    required: dict[str, tuple[int, ...]] = {}
    for path in _files(prefix):
        size = path.stat().st_size
        count, total = count + 1, total + size
        if size > len(MAGIC) and (version := _required_glibc(path)):
            required[path.relative_to(prefix).as_posix()] = version
    if glibc is not None:
        _check_glibc(required, glibc)
    newest = max(required.values(), default=None)
    return Contents(
        files=count,
        unpacked_size=total,
        package_sizes=_package_sizes(prefix),
        glibc=".".join(map(str, newest)) if newest else None,
        modules=_modules(prefix),
    )


def _files(prefix: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(prefix):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                yield path


def _required_glibc(path: Path) -> tuple[int, ...] | None:
    found: set[bytes] = set()
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
        dynamic = read_dynamic(path)
        # Symbol versions are in a library's string table. Without a readable one, search the whole file.
        begin, left = dynamic.strings if dynamic else (0, path.stat().st_size)
        file.seek(begin)
        # In blocks, because a library may be larger than the memory of a build. A name may span two blocks.
        edge = b""
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            left -= len(block)
            found.update(_GLIBC.findall(edge + block))
            edge = block[-_LONGEST_NAME:]
    return max((tuple(map(int, version.split(b"."))) for version in found), default=None)


def _check_glibc(required: Mapping[str, tuple[int, ...]], glibc: str) -> None:
    limit = tuple(map(int, glibc.split(".")))
    newer = {name: version for name, version in required.items() if version > limit}
    if newer:
        named = [f"{name} ({'.'.join(map(str, version))})" for name, version in sorted(newer.items())]
        raise ArchiveError(
            f"Executors have glibc {glibc}, but these files require a newer version: {join_limited(named, _NAMED)}."
            " Require older versions of their packages, or build on a machine like the executors."
        )


def _check_shebangs(prefix: Path) -> None:
    """Refuse scripts whose shebang line is a Python of this machine, because they fail on any other."""
    bound = []
    scripts = prefix / "bin"
    for path in sorted(scripts.iterdir()) if scripts.is_dir() else ():
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            first = file.readline(512)
        if first.startswith(b"#!/") and b"python" in first and not first.startswith((b"#!/usr/bin/env", b"#!/bin/sh")):
            bound.append(f"bin/{path.name} ({first[2:].strip().decode(errors='replace')})")
    if bound:
        raise ArchiveError(
            f"These scripts call an interpreter by its path on this machine: {join_limited(bound, _NAMED)}. "
            "Install their packages again, or remove the scripts."
        )


def _modules(prefix: Path) -> tuple[str, ...] | None:
    """Return the top-level names that can be imported from the prefix's packages."""
    roots = list(prefix.glob("lib/python3.*/site-packages"))
    if not roots:
        return None
    for root in list(roots):
        for file in root.glob("*.pth"):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            # Lines that begin with "import" are code. What they add to the path is not known.
            roots += [
                root / line for line in lines if line.strip() and not line.startswith(("#", "import ", "import\t"))
            ]
    names = {_module_name(path) for root in roots if root.is_dir() for path in root.iterdir()}
    return tuple(sorted(name for name in names if name and name != "__pycache__"))


def _module_name(path: Path) -> str | None:
    name = path.name.partition(".")[0] if path.suffix in {".py", ".pyc", ".so"} and path.is_file() else path.name
    return name if name.isidentifier() and (path.is_dir() or path.suffix in {".py", ".pyc", ".so"}) else None


def _package_sizes(prefix: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, _, info in (each for site in prefix.glob("lib/python3.*/site-packages") for each in distributions(site)):
        located = (Path(str(file.locate())) for file in metadata.Distribution.at(info).files or ())
        sizes[name] = sum(path.lstat().st_size for path in located if path.is_file() and path.suffix != ".pyc")
    for record in prefix.glob("conda-meta/*.json"):
        facts = json.loads(record.read_text(encoding="utf-8"))
        paths = (prefix / name for name in facts.get("files", ()))
        sizes[facts["name"]] = sum(path.lstat().st_size for path in paths if path.is_file())
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
