"""Existing virtualenvs: what is installed in them, and how they are copied."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments import input_files
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.shebangs import relocate_script
from airflow_provider_sparkdeps.environments.pythons import BasePython, inspect_python
from airflow_provider_sparkdeps.environments.requirements.input_tree import InputTree, copy_of, walk
from airflow_provider_sparkdeps.environments.requirements.resolve import build_wheels
from airflow_provider_sparkdeps.environments.uv import Uv
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.text import join_limited

# Files that each venv has, and files that installers write again at each installation.
_OWN = re.compile(r"(python|pythonw|activate|deactivate|pydoc)(\d|\.|$).*|.*\.bat|_virtualenv\.(py|pth)")
_UNHASHED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")
_SHARED = ("share", "etc")


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
        for each in self._distributions():
            local = each.editable
            for path, digest, *rest in site_packages.read_record(each.info):
                if local and not path.startswith(".."):
                    recorded[path] = ""  # a placeholder for the project, whose own files are hashed
                elif digest and rest and _size(self._site / path) == rest[0]:
                    recorded[path] = digest
        contents = {}
        for name, file in self._members():
            if not _is_install_metadata(name):
                contents[name] = recorded[name] if name in recorded else input_files.sha256_of(file)
        shared = {
            f"{folder}/{name}": input_files.sha256_of(path)
            for folder in _SHARED
            for name, path in _named(self.prefix / folder)
        }
        return {
            "distributions": list(self.lock()),
            "files": {name: digest for name, digest in sorted(contents.items()) if digest},
            "shared": shared,
        }

    def lock(self) -> tuple[str, ...]:
        """Return the installed distributions, sorted; editable projects with a hash of their files."""
        lines = []
        for each in self._distributions():
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
        editable = [each for each in self._distributions() if each.editable]
        excluded = {row[0] for each in editable for row in site_packages.read_record(each.info)}
        self._check_is_closed(excluded)
        uv.create_venv(prefix, python=base.executable)
        site = prefix / "lib" / f"python{self.minor}" / "site-packages"
        # An installer's record of where a package came from may contain a path or a token.
        excluded |= {
            name
            for name, _ in self._members()
            if _is_install_metadata(name) and name.endswith(site_packages.INSTALL_METADATA)
        }
        members = [(name, path) for name, path in self._members() if name not in excluded]
        for name, path in members:
            target = site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target, within=self._site)
        scripts = {os.path.normpath(self._site / name) for name in excluded if name.startswith("..")}
        for script in sorted((self.prefix / "bin").iterdir()):
            if script.is_file() and not _OWN.fullmatch(script.name) and str(script) not in scripts:
                relocate_script(script, prefix / "bin" / script.name)
        for folder in _SHARED:
            for name, path in _named(self.prefix / folder):
                (prefix / folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, prefix / folder / name)
        for info in site.glob("*.dist-info"):
            # Scripts were rewritten; bytecode and install metadata were not copied.
            site_packages.remove_from_record(info, _is_stale)
        projects = []
        for each in editable:
            tree = self._tree(each)
            tree.copy_to(uv.scratch / "files")
            projects.append(copy_of(tree.origin, uv.scratch / "files"))
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

    def _distributions(self) -> list[_Distribution]:
        from packaging.utils import canonicalize_name

        found = []
        for info in sorted(self._site.glob("*.dist-info")):
            name, _, version = info.name.removesuffix(".dist-info").partition("-")
            try:
                origin = json.loads((info / "direct_url.json").read_bytes())
            except FileNotFoundError:
                origin = {}
            found.append(_Distribution(canonicalize_name(name), version, info, origin))
        return found

    def _members(self) -> Iterator[tuple[str, Path]]:
        for directory, names, entries in os.walk(self._site, followlinks=True):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for entry in sorted(entries):
                path = Path(directory) / entry
                name = path.relative_to(self._site).as_posix()
                if not entry.endswith(".pyc") and not _OWN.fullmatch(name):
                    yield name, path

    def _check_is_closed(self, excluded: set[str]) -> None:
        outside = []
        for path in sorted(self._site.glob("*.pth")):
            if path.name in excluded:
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


def _named(root: Path) -> Iterator[tuple[str, Path]]:
    for path in walk(root):
        yield path.relative_to(root).as_posix(), path


def _is_install_metadata(name: str) -> bool:
    folder, _, last = name.rpartition("/")
    return folder.endswith(".dist-info") and last in _UNHASHED


def _is_stale(path: str) -> bool:
    return path.startswith("../") or path.endswith(".pyc") or path.endswith(site_packages.INSTALL_METADATA)


def _size(path: Path) -> str | None:
    try:
        return str(path.stat().st_size)
    except OSError:
        return None


def _copy(path: Path, target: Path, *, within: Path) -> None:
    try:
        link = path.readlink() if path.is_symlink() else None
        stays = link and not link.is_absolute() and Path(os.path.normpath(path.parent / link)).is_relative_to(within)
        if link and stays:
            target.symlink_to(link)
        else:
            shutil.copy2(path, target)
    except FileNotFoundError as error:
        raise BuildError(f"{path} is a broken link. Install its package again.") from error
