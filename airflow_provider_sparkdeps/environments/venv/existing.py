"""Existing virtualenvs: what is installed in them, and how they are copied."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments import input_files
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.bundle_python import VENV_FILES
from airflow_provider_sparkdeps.environments.prefix.shebangs import relocated
from airflow_provider_sparkdeps.environments.pythons import BasePython, inspect_python
from airflow_provider_sparkdeps.environments.requirements.input_tree import InputTree, copy_of
from airflow_provider_sparkdeps.environments.requirements.lock_files import LocalPackage
from airflow_provider_sparkdeps.environments.requirements.resolve import build_wheels
from airflow_provider_sparkdeps.environments.uv import Uv
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.text import join_limited

# Files that installers write again at each installation.
_UNHASHED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


@dataclass(frozen=True)
class _Distribution:
    name: str
    version: str
    info: Path
    origin: dict[str, Any]

    @property
    def editable(self) -> Path | None:
        """The project's directory, if it was installed editable."""
        if not self.origin.get("dir_info", {}).get("editable"):
            return None
        return Path(unquote(urlsplit(str(self.origin.get("url", ""))).path))


@dataclass(frozen=True)
class Virtualenv:
    """A virtualenv on this machine that can be packed.

    :param prefix: its directory.
    :param minor: minor version of its Python.
    """

    prefix: Path
    minor: str

    @staticmethod
    def at(prefix: Path) -> Virtualenv:
        """Return the virtualenv in a directory.

        :raises InvalidArgumentError: if there is none, or it can't be packed.
        """
        if (prefix / "conda-meta").is_dir():
            raise InvalidArgumentError(
                f"{prefix} is a conda environment. Write CondaEnvironment.from_prefix({str(prefix)!r})."
            )
        if not (prefix / "pyvenv.cfg").is_file():
            raise InvalidArgumentError(
                f"{prefix} is not a virtualenv: it has no pyvenv.cfg. Pass one that `python -m venv` created."
            )
        settings = input_files.read_text(prefix / "pyvenv.cfg")
        if re.search(r"^include-system-site-packages\s*=\s*true", settings, re.MULTILINE | re.IGNORECASE):
            raise InvalidArgumentError(
                f"{prefix} uses packages of the system's Python, which would not be packed. Create it again"
                " without --system-site-packages, and install what it needs."
            )
        found = sorted(prefix.glob("lib/python3.*/site-packages"))
        if len(found) != 1:
            raise InvalidArgumentError(
                f"{prefix} has {len(found)} lib/python3.X/site-packages instead of one. Create it again."
            )
        return Virtualenv(prefix, found[0].parent.name.removeprefix("python"))

    @property
    def _site(self) -> Path:
        return self.prefix / "lib" / f"python{self.minor}" / "site-packages"

    def inputs(self) -> dict[str, Any]:
        """Return what the key depends on: installed distributions, by their RECORD files, and all other files."""
        recorded: dict[str, str] = {}
        for each in self._distributions:
            for row, digest, *rest in site_packages.read_record(each.info):
                name = self._name(row)
                if each.editable:
                    recorded[name] = ""  # a placeholder for the project, whose own files are hashed
                elif digest and rest and _size(f"{self.prefix}/{name}") == rest[0]:
                    recorded[name] = digest
        contents = {}
        for name, path, link in self._members():
            if link:
                contents[name] = f"link to {link}"
            elif not _is_install_metadata(name) and recorded.get(name) != "":
                # Scripts as they will be: installers write the path of the prefix into them.
                script = relocated(path) if name.rpartition("/")[0] == "bin" else None
                contents[name] = (
                    hashlib.sha256(script).hexdigest() if script else recorded.get(name) or input_files.sha256_of(path)
                )
        return {"distributions": list(self.lock()), "files": contents}

    def lock(self) -> tuple[str, ...]:
        """Return the installed distributions, sorted; editable projects with a hash of their files."""
        lines = []
        for each in self._distributions:
            line = f"{each.name}=={each.version}"
            local = each.editable
            lines.append(f"{line} (sha256 {self._tree(each).digest()})" if local else line)
        return tuple(sorted(lines))

    def base(self, deadline: Deadline) -> BasePython:
        """Return the interpreter that it was created with.

        :raises BuildError: if it does not start.
        """
        python = inspect_python(self.prefix / "bin" / "python", deadline=deadline)
        if python is None or python.minor != self.minor:
            raise BuildError(
                f"{self.prefix}/bin/python is not a working CPython {self.minor}: its base interpreter may have been"
                " removed or upgraded. Create the virtualenv again, or pass its requirements instead."
            )
        return python

    def copy_to(self, prefix: Path, *, uv: Uv, base: BasePython) -> None:
        """Copy it to a prefix that can be moved once it has an interpreter. Editable projects are built as wheels.

        :raises InvalidArgumentError: if it refers to packages outside of it.
        """
        editable = [each for each in self._distributions if each.editable]
        excluded = {self._name(row[0]) for each in editable for row in site_packages.read_record(each.info)}
        self._check_is_closed(excluded)
        uv.create_venv(prefix, python=base.executable)
        for name, path, link in self._members():
            # An installer's record of where a package came from may contain a path or a token.
            is_origin = _is_install_metadata(name) and name.endswith(site_packages.INSTALL_METADATA)
            if name in excluded or is_origin:
                continue
            target = prefix / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if link:
                target.symlink_to(link)
            else:
                shutil.copy2(path, target)
        for info in prefix.glob("lib/python3.*/site-packages/*.dist-info"):
            site_packages.remove_from_record(info, _is_not_copied)
        projects = []
        for each in editable:
            tree = self._tree(each)
            tree.copy_to(uv.scratch / "files")
            projects.append(LocalPackage(each.name, "", copy_of(tree.origin, uv.scratch / "files"), {}))
        wheels = [wheel.path for wheel in build_wheels(projects, uv=uv, python=base.executable)]
        if wheels:
            uv.install("--break-system-packages", "--python", prefix / "bin" / "python", wheels=wheels)
            site_packages.remove_install_metadata(prefix, [each.name for each in editable])

    def _tree(self, each: _Distribution) -> InputTree:
        """Return the files of an editable project."""
        directory = each.editable
        if directory is None or not directory.is_dir():
            raise InvalidArgumentError(
                f"{each.name} is installed editable in {self.prefix}, but its project is not in {directory}. Install"
                " it again, without --editable."
            )
        tree = InputTree(directory)
        tree.add_local(directory)
        return tree

    @cached_property
    def _distributions(self) -> list[_Distribution]:
        found = []
        for name, version, info in site_packages.distributions(self._site):
            try:
                origin = json.loads((info / "direct_url.json").read_bytes())
            except (FileNotFoundError, NotADirectoryError):
                origin = {}
            found.append(_Distribution(name, version, info, origin))
        return found

    def _name(self, recorded: str) -> str:
        """Return the path in the prefix of a path in a RECORD."""
        return os.path.normpath(f"lib/python{self.minor}/site-packages/{recorded}")

    def _members(self) -> Iterator[tuple[str, Path, str]]:
        """Yield the name and path of each file that a venv does not have by itself, and where it links to.

        :raises InvalidArgumentError: if something can't be copied.
        """
        return _members(Path(os.path.realpath(self.prefix)), "", ())

    def _check_is_closed(self, excluded: set[str]) -> None:
        outside = []
        for path in sorted(self._site.glob("*.pth")):
            if self._name(path.name) in excluded:
                continue
            for line in input_files.read_text(path).splitlines():
                entry = line.strip()
                if entry and not entry.startswith(("#", "import ", "import\t")):
                    target = Path(os.path.normpath(self._site / entry))
                    if Path(entry).is_absolute() or not target.is_relative_to(self.prefix):
                        outside.append(f"{path.name} to {entry}")
        links = sorted(self._site.glob("*.egg-link"))
        if outside or links:
            named = [*outside, *(link.name for link in links)]
            raise InvalidArgumentError(
                f"{self.prefix} refers to directories outside of it, which would not be packed: {join_limited(named)}."
                " Install their contents as packages (`pip install /path`, not --editable), and remove these files."
            )


def _is_install_metadata(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return folder.endswith(".dist-info") and last in _UNHASHED


def _is_not_copied(recorded: str) -> bool:
    return "__pycache__/" in recorded or recorded.endswith(site_packages.INSTALL_METADATA)


def _size(path: str) -> str | None:
    try:
        return str(os.stat(path).st_size)  # noqa: PTH116 - a Path for each file takes longer than the rest
    except OSError:
        return None


def _members(directory: Path, below: str, within: tuple[Path, ...]) -> Iterator[tuple[str, Path, str]]:
    """Yield name, path and link target of each file, sorted. Links out of the prefix are followed.

    :param directory: without links in its path.
    :param below: its name in the prefix, with a slash.
    :param within: the prefix, and the directories outside of it that links have led to.
    """
    within = within or (directory,)
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidArgumentError(f"Could not read {directory}: {error.strerror}. Correct its permissions.") from error
    for entry in found:
        name, path = below + entry.name, Path(entry)
        is_venvs = VENV_FILES.fullmatch(name) or (name == "lib64" and entry.is_symlink())
        if entry.name == "__pycache__" or is_venvs:
            continue
        inside = within
        if entry.is_symlink():
            written = directory / path.readlink()
            target = Path(os.path.normpath(Path(os.path.realpath(written.parent), written.name)))
            if target.is_relative_to(within[-1]):
                yield name, path, os.path.relpath(target, directory)
                continue
            path = Path(os.path.realpath(path))
            if any(each.is_relative_to(path) for each in within):
                raise InvalidArgumentError(
                    f"{within[0]}/{name} is a link to {path}, which contains the link itself. Remove it, or replace it"
                    " by a copy of what is needed."
                )
            inside = (*within, path)
        if entry.is_dir():
            yield from _members(path, f"{name}/", inside)
        elif entry.is_file():
            yield name, path, ""
        else:
            what = f"a broken link to {path}" if entry.is_symlink() else "neither a file nor a directory nor a link"
            raise InvalidArgumentError(f"{within[0]}/{name} is {what}. Remove it, or install its package again.")
