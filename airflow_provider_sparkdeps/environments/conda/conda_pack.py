"""What conda-pack does for us: an installed conda environment becomes a tree that can be moved anywhere."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.text import one_screen

RELOCATE = "bin/sparkdeps-relocate.py"
# In the place of the prefix that an environment was installed at, which is another one each time.
_PLACEHOLDER = "/opt/sparkdeps-prefix"
_PYTHON_BY_ENV = re.compile(rb"#!/usr/bin/env (python[\d.]*)([^\n]*)\n")
# What identifies a package; the rest are paths and URLs of the machine that installed it.
_META = (
    "name", "version", "build", "build_number", "subdir", "noarch", "depends", "constrains", "license", "md5",
    "sha256", "size", "timestamp", "fn", "files",
)  # fmt: skip


def make_relocatable(
    environment: Path, target: Path, *, ignore_missing_files: bool, say: Callable[[str], None]
) -> str | None:
    """Write an environment to another directory, so that it can be moved from there.

    Equal environments give equal trees, wherever they were installed.

    :param environment: an installed conda environment; stays as it is.
    :param target: a directory that doesn't exist yet.
    :param ignore_missing_files: whether to go on when files of conda's packages are gone.
    :param say: told what conda-pack warns of.
    :return: the path below the target of a script to run with the final place as its argument; None if there is
        nothing to do.
    :raises BuildError: with conda-pack's explanation.
    """
    import warnings

    from conda_pack import CondaEnv, CondaPackException
    from conda_pack.core import Packer

    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            listed = CondaEnv.from_prefix(str(environment), ignore_missing_files=ignore_missing_files)
            tree = _Tree(environment, target)
            packer = Packer(str(environment), tree)
            for file in listed:
                # conda-pack would read and copy them all, at gigabytes of memory for the largest.
                if file.file_mode == "unknown" and not _holds(Path(file.source), os.fsencode(environment)):
                    file.file_mode = None
                packer.add(file)
    except CondaPackException as error:
        raise BuildError(_explained(str(error), environment)) from None
    for each in warned:
        say(" ".join(str(each.message).split())[:500])
    _forget_scripts_hashes(target)
    records = _records(target, packer.prefixes, str(environment))
    if not records:
        return None
    script = resources.files(__package__).joinpath("executor/relocate.py").read_text(encoding="utf-8")
    (target / RELOCATE).write_text(script)
    (target / RELOCATE).with_suffix(".json").write_text(json.dumps(records, indent=0))
    return RELOCATE


class _Tree:
    """What conda-pack takes for an archive: a directory of links and copies."""

    def __init__(self, environment: Path, target: Path) -> None:
        self._placed = os.fsencode(environment)
        self._target = target
        target.mkdir()

    def add(self, source: str, target: str) -> None:
        if target == "conda-meta/history":
            return
        path = self._path(target)
        if Path(source).is_dir() and not Path(source).is_symlink():
            path.mkdir(exist_ok=True)
            return
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError:
            # The package cache is on another file system, or its links are all used.
            shutil.copy2(source, path, follow_symlinks=False)

    def add_bytes(self, source: str, content: bytes, target: str) -> None:
        path = self._path(target)
        if path.parent.name == "conda-meta" and path.suffix == ".json":
            facts = json.loads(content)
            kept = {name: facts[name] for name in _META if name in facts}
            content = json.dumps(kept, indent=1, sort_keys=True).encode()
        elif target.startswith("bin/") and not _starts_with(source, b"#!/usr/bin/env"):
            # conda-pack has made it depend on PATH; the interpreter lies next to it.
            content = _PYTHON_BY_ENV.sub(_next_to_it, content, count=1)
        path.write_bytes(content.replace(self._placed, _PLACEHOLDER.encode()) if _is_text(content) else content)
        shutil.copymode(source, path)

    def _path(self, target: str) -> Path:
        path = self._target / target
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _holds(path: Path, sought: bytes) -> bool:
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(sought) >= 0


def _starts_with(source: str, start: bytes) -> bool:
    with Path(source).open("rb") as file:
        return file.read(len(start)) == start


def _next_to_it(found: re.Match[bytes]) -> bytes:
    python, options = found[1], found[2]
    call = b"""'''exec' "$(dirname -- "$(realpath -- "$0")")"/'%s'%s "$0" "$@"\n""" % (python, options)
    return b"#!/bin/sh\n" + call + b"' '''\n"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _records(target: Path, prefixes: Iterable[tuple[str, str, str]], placed: str) -> list[tuple[str, str, str]]:
    """Those of conda-pack's records whose files do hold what is to be replaced."""
    found = set()
    for name, placeholder, mode in prefixes:
        sought = _PLACEHOLDER if placeholder == placed else placeholder
        if _holds(target / name, os.fsencode(sought)):
            found.add((name, sought, mode))
    return sorted(found)


def _forget_scripts_hashes(target: Path) -> None:
    """Their first lines are other ones now; a RECORD may leave a hash out."""
    for record in target.glob("lib/python3.*/site-packages/*.dist-info/RECORD"):
        before = record.read_text(encoding="utf-8")
        after = re.sub(r"^((?:\.\./)+bin/[^,\n]+),[^,\n]*,\d*$", r"\1,,", before, flags=re.MULTILINE)
        if after != before:
            # A link to a cache's file must not be written through.
            record.unlink()
            record.write_text(after, encoding="utf-8")


def _explained(text: str, environment: Path) -> str:
    if "deleted/overwritten" in text:
        packages = re.findall(r"^- (.*?):$", text, re.MULTILINE)
        files = re.findall(r"^    (.*)$", text, re.MULTILINE)
        return (
            f"Files of conda's packages {', '.join(packages)} are gone from {environment}, or were overwritten, such as"
            f" {', '.join(files[:5])}. Usually pip has replaced a package of conda's: install these again, with one of"
            " the two only; or pass ignore_missing_files=True to pack what is there."
        )
    if "editable packages" in text:
        packages = re.findall(r"^- (.*)$", text, re.MULTILINE)
        return (
            f"{environment} holds editable packages, whose code lies elsewhere: {', '.join(packages)}. Install them"
            " without `-e`, or build an environment from requirements."
        )
    return f"conda-pack could not pack {environment}. It says:\n\n{one_screen(text)}"


def python_version(environment: Path) -> str:
    """Return the version of Python in an installed conda environment, such as "3.12.1".

    :raises BuildError: when there is none.
    """
    for path in sorted((environment / "conda-meta").glob("python-3.*.json")):
        with contextlib.suppress(OSError, ValueError):
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if facts.get("name") == "python":
                return str(facts["version"])
    raise BuildError(f"{environment} is no conda environment with a Python: its conda-meta lists none.")
