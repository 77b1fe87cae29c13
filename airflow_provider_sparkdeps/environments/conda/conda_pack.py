"""Makes an installed conda environment relocatable with conda-pack."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.text import shorten_output

RELOCATE = "bin/sparkdeps-relocate.py"
# Replaces the path at which the environment was installed, which differs between builds.
_PLACEHOLDER = "/opt/sparkdeps-prefix"
_PYTHON_BY_ENV = re.compile(rb"#!/usr/bin/env (python[\d.]*)([^\n]*)\n")
# How rattler and uv call a Python whose path is too long for a shebang.
_PYTHON_BY_SHELL = re.compile(
    rb"#!/bin/sh\n'''exec' [\"']?[^\"'\n]*/bin/(python[\d.]*)[\"']?([^\n]*?) \"\$0\" \"\$@\"(?: #'''\n|\n' '''\n)"
)
# The fields that identify a package; the others are paths and URLs of the machine that installed it.
_META = (
    "name", "version", "build", "build_number", "subdir", "noarch", "depends", "constrains", "license", "md5",
    "sha256", "size", "timestamp", "fn", "files",
)  # fmt: skip


def relocate_prefix(
    environment: Path, target: Path, *, ignore_missing_files: bool, on_line: Callable[[str], None]
) -> str | None:
    """Copy an environment to another directory, from which it can be moved anywhere.

    Equal environments give equal copies, wherever they were installed.

    :param environment: an installed conda environment, which is not changed.
    :param target: a directory that does not exist yet.
    :param ignore_missing_files: whether to continue if files of conda packages are missing.
    :param on_line: called with each warning of conda-pack.
    :return: path, relative to the target, of a script to run with the final path as its argument; None if no file
        contains the path.
    :raises BuildError: if conda-pack can't pack the environment.
    """
    import warnings

    from conda_pack import CondaEnv, CondaPackException
    from conda_pack.core import Packer

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            files = CondaEnv.from_prefix(str(environment), ignore_missing_files=ignore_missing_files)
            packer = Packer(str(environment), _DirectoryArchive(environment, target))
            for file in files:
                # conda-pack reads and copies files of unknown mode, and needs gigabytes of memory for large ones.
                if file.file_mode == "unknown" and not _contains(Path(file.source), os.fsencode(environment)):
                    file.file_mode = None
                packer.add(file)
    except CondaPackException as error:
        raise BuildError(_explain_error(str(error), environment)) from None
    for warning in caught:
        on_line(" ".join(str(warning.message).split())[:500])
    _remove_script_hashes(target)
    placeholders = _find_placeholders(target, packer.prefixes, str(environment))
    if not placeholders:
        return None
    script = resources.files(__package__).joinpath("executor/relocate.py").read_text(encoding="utf-8")
    (target / RELOCATE).write_text(script)
    (target / RELOCATE).with_suffix(".json").write_text(json.dumps(placeholders, indent=0))
    return RELOCATE


class _DirectoryArchive:
    """An archive for conda-pack that is a directory of hard links and copies."""

    def __init__(self, environment: Path, target: Path) -> None:
        self._installed_at = os.fsencode(environment)
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
            # The package cache is on another file system, or the file has the maximum number of links.
            shutil.copy2(source, path, follow_symlinks=False)

    def add_bytes(self, source: str, content: bytes, target: str) -> None:
        path = self._path(target)
        if path.parent.name == "conda-meta" and path.suffix == ".json":
            meta = json.loads(content)
            content = json.dumps(
                {name: meta[name] for name in _META if name in meta}, indent=1, sort_keys=True
            ).encode()
        elif target.startswith("bin/") and not _starts_with(source, b"#!/usr/bin/env"):
            # conda-pack lets scripts find the interpreter on PATH; it is in the same directory.
            content = _PYTHON_BY_ENV.sub(_use_python_in_same_directory, content, count=1)
            if head := _PYTHON_BY_SHELL.match(content):
                content = _use_python_in_same_directory(head) + content[head.end() :]
        path.write_bytes(content.replace(self._installed_at, _PLACEHOLDER.encode()) if _is_text(content) else content)
        shutil.copymode(source, path)

    def _path(self, target: str) -> Path:
        path = self._target / target
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _contains(path: Path, data: bytes) -> bool:
    if path.is_symlink() or not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(data) >= 0


def _starts_with(source: str, start: bytes) -> bool:
    with Path(source).open("rb") as file:
        return file.read(len(start)) == start


def _use_python_in_same_directory(match: re.Match[bytes]) -> bytes:
    call = b"""'''exec' "$(dirname -- "$(realpath -- "$0")")"/'%s'%s "$0" "$@"\n""" % match.groups()
    return b"#!/bin/sh\n" + call + b"' '''\n"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _find_placeholders(
    target: Path, prefixes: Iterable[tuple[str, str, str]], installed_at: str
) -> list[tuple[str, str, str]]:
    """Return those of conda-pack's records whose files contain the placeholder."""
    found = set()
    for name, recorded, mode in prefixes:
        placeholder = _PLACEHOLDER if recorded == installed_at else recorded
        if _contains(target / name, os.fsencode(placeholder)):
            found.add((name, placeholder, mode))
    return sorted(found)


def _remove_script_hashes(target: Path) -> None:
    """Remove the hashes of scripts from RECORD files: their first lines have changed, and hashes are optional."""
    for record in target.glob("lib/python3.*/site-packages/*.dist-info/RECORD"):
        before = record.read_text(encoding="utf-8")
        after = re.sub(r"^((?:\.\./)+bin/[^,\n]+),[^,\n]*,\d*$", r"\1,,", before, flags=re.MULTILINE)
        if after != before:
            # It may be a hard link into the package cache: create a new file.
            record.unlink()
            record.write_text(after, encoding="utf-8")


def _explain_error(message: str, environment: Path) -> str:
    if "deleted/overwritten" in message:
        packages = re.findall(r"^- (.*?):$", message, re.MULTILINE)
        files = re.findall(r"^    (.*)$", message, re.MULTILINE)
        return (
            f"Could not pack {environment}: files of the conda packages {', '.join(packages)} are missing or were"
            f" overwritten ({', '.join(files[:5])}). Usually pip has replaced a conda package: reinstall it with one of"
            " the two, or pass ignore_missing_files=True to pack the environment as it is."
        )
    if "editable packages" in message:
        packages = re.findall(r"^- (.*)$", message, re.MULTILINE)
        return (
            f"Could not pack {environment}: it has editable packages, whose code is in another directory:"
            f" {', '.join(packages)}. Install them without `-e`, or build an environment from requirements."
        )
    return f"conda-pack could not pack {environment}:\n\n{shorten_output(message)}"
