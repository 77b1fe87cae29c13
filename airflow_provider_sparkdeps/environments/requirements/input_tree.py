"""The local files that uv reads for an environment: hashed for the key, and copied for the build."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.input_files import digest_with_mode, read_toml, sha256_of
from airflow_provider_sparkdeps.environments.requirements.git import copy_repository, repository_of, repository_state
from airflow_provider_sparkdeps.environments.requirements.pep508 import check_urls
from airflow_provider_sparkdeps.environments.requirements.project_files import project_files, walk
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

_READ = ("name", "dependencies", "optional-dependencies", "requires-python", "dynamic")
# Those settings of `uv pip` that say where packages come from, and not which ones.
_PIP_SETTINGS = {
    "index-url", "extra-index-url", "no-index", "find-links", "index-strategy", "keyring-provider", "prerelease",
    "resolution", "exclude-newer", "no-build", "no-binary", "only-binary", "no-build-isolation", "config-settings",
    "link-mode", "compile-bytecode", "generate-hashes", "annotation-style", "no-header", "no-annotate", "strict",
}  # fmt: skip
# Without the parent directories themselves, such as the root of setuptools_scm.
_ELSEWHERE = re.compile(r"(?:\.\.?/)*\.\./[^/.][^\0\n]{0,200}")
_LOCAL_SOURCES = ("editable", "directory", "path", "virtual")
ARCHIVES = (".whl", ".tar.gz", ".zip")
"""Endings of the files that uv installs."""


@dataclass
class InputTree:
    """Files of this machine, by their absolute paths.

    uv runs in a copy that contains these files and no others, at the same relative paths. So it can't read a file that
    the key does not depend on: where this class overlooks one, uv reports that it is missing.

    :param origin: the directory to which paths are relative in the key.
    :param entry: the file that refers to the others; its name makes no difference.
    """

    origin: Path
    entry: Path | None = None
    _files: dict[Path, str | None] = field(default_factory=dict)
    _facts: dict[str, str] = field(default_factory=dict)
    named: dict[str, Path] = field(default_factory=dict)
    """The local projects whose names are known, which must not be looked up in an index."""
    _projects: set[Path] = field(default_factory=set)
    _workspaces: set[Path] = field(default_factory=set)
    _repositories: set[Path] = field(default_factory=set)

    def digest(self) -> str:
        """Return the hex sha256 of the names and contents of all files."""
        found = list(self._facts.items())
        for path, key in self._files.items():
            name = "" if path == self.entry else os.path.relpath(path, self.origin)
            found.append((name, digest_with_mode(path) if key is None else key))
        return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()

    def copy_to(self, root: Path) -> None:
        """Copy the files to the same paths below a directory."""
        for repository in sorted(self._repositories):
            copy_repository(repository, copy_of(repository, root))
        for path in self._files:
            target = copy_of(path, root)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)

    def add(self, path: Path, *, key: Any = None) -> None:
        """Add a file.

        :param key: data of the file that the key depends on, instead of its contents.
        """
        if key is None:
            self._files[path] = None
        elif self._files.get(path, "") is not None:
            self._files[path] = json.dumps(key, sort_keys=True, default=str)

    def add_directory(self, path: Path) -> None:
        """Add all files of a directory, such as one with wheels.

        :raises InvalidArgumentError: if there is none.
        """
        if not path.is_dir():
            raise InvalidArgumentError(f"Could not read {path}: there is no such directory. Correct its path.")
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self.add(file)

    def add_local(self, path: Path) -> None:
        """Add a project with the local projects that it names, an sdist or a wheel.

        :raises InvalidArgumentError: if it can't be installed.
        """
        if not path.is_dir():
            if not path.name.endswith(ARCHIVES):
                raise InvalidArgumentError(f"{path} is not a project directory, an sdist or a wheel. Correct the path.")
            if not path.is_file():
                raise InvalidArgumentError(f"Could not read {path}: there is no such file. Correct its path.")
            self.add(path)
        elif not is_installable(path):
            raise InvalidArgumentError(
                f"{path} can't be built: it has no pyproject.toml. Add one, or correct the path."
            )
        elif path not in self._projects:
            self._projects.add(path)
            data = self._add_settings(path)
            for file in project_files(path):
                self.add(file)
            self._add_files_elsewhere(path, data)
            self.add_workspace(path)
            requires = _table(data, "build-system").get("requires", [])
            if not _table(data, "project").get("version") or any(re.search("scm|vcs|git", each) for each in requires):
                name = os.path.relpath(path, self.origin)
                self._facts[f"{name} in its directory"] = path.name
                if repository := repository_of(path):
                    self._repositories.add(repository)
                    state = repository_state(repository)
                    self._facts |= {f"{file} of {name} in git": content for file, content in state.items()}

    def _add_files_elsewhere(self, project: Path, data: Any) -> None:
        """Add what is outside of a project and named in its pyproject.toml, such as a license that projects share."""
        for each in itertools.chain(data, data.values()) if isinstance(data, dict) else data:
            if isinstance(each, dict | list):
                self._add_files_elsewhere(project, each)
            elif isinstance(each, str) and _ELSEWHERE.fullmatch(each):
                path = _normal(project / each)
                if path.is_file():
                    self.add(path)
                elif path.is_dir() and not is_installable(path):
                    for file in project_files(path):
                        self.add(file)

    def add_project(self, path: Path) -> dict[str, Any]:
        """Add what uv reads of a project to find its dependencies: all files, if only its build backend knows them.

        :return: the data of its pyproject.toml.
        """
        data = self._add_settings(path)
        project = _table(data, "project")
        settings = _table(data, "tool", "uv")
        has_backend = "build-system" in data or "poetry" in data.get("tool", {}) or (path / "setup.py").is_file()
        if (path / "pyproject.toml").is_file():
            # What uv reads itself; for the rest it would ask the build backend.
            self.add(path / "pyproject.toml", key={**data, "project": _read(data), "tool": {"uv": settings}})
        if project.get("dynamic") or (not project and has_backend):
            self.add_local(path)
        return data

    def add_workspace(self, path: Path) -> Path | None:
        """Add the lock of a project, and the uv workspace that it belongs to.

        :return: the uv.lock, if there is one.
        """
        root, members = path, list[Path]()
        for parent in (path, *path.parents):
            workspace = _table(_read_if_file(parent / "pyproject.toml"), "tool", "uv", "workspace")
            if workspace:
                excluded = set(_glob(parent, workspace.get("exclude", [])))
                members = [each for each in _glob(parent, workspace.get("members", [])) if each not in excluded]
                if path == parent or path in members:
                    root = parent
                else:
                    self._add_settings(parent)
                break
        lock = root / "uv.lock"
        locked = read_toml(lock) if lock.is_file() else None
        if root not in self._workspaces:
            self._workspaces.add(root)
            self.add_project(root)
            for member in members:
                if (member / "pyproject.toml").is_file():
                    (self.add_local if locked is None else self.add_project)(_normal(member))
        if locked is None:
            return None
        self.add(lock, key=locked)
        check_strings(locked, lock)
        for registry in {str(_table(each, "source").get("registry", "://")) for each in locked.get("package", [])}:
            if "://" not in registry:
                self.add_directory(_normal(root / registry))
        for place in _local_packages(locked, os.path.relpath(path, root)):
            found = _normal(root / place)
            if found != path:
                self.add_local(found)
        return lock

    def _add_settings(self, path: Path) -> dict[str, Any]:
        from packaging.utils import canonicalize_name

        data: dict[str, Any] = {}
        for name in ("pyproject.toml", "uv.toml"):
            if not (path / name).is_file():
                continue
            found = read_toml(path / name)
            self.add(path / name, key=found)
            is_project = name == "pyproject.toml"
            check_strings(_checked(found) if is_project else found, path / name)
            if is_project:
                data = found
                _refuse_sources_of_others(data, path / name)
                own = _table(data, "project").get("name") or _table(data, "tool", "poetry").get("name")
                self.named |= {canonicalize_name(own): path} if own else {}
            settings = _table(found, "tool", "uv") if is_project else found
            _check_settings(settings, path / name)
            self.add_sources(path, settings)
            self.add_sources(path, {"sources": _table(data, "tool", "poetry", "dependencies")})
        return data

    def add_sources(self, path: Path, settings: dict[str, Any]) -> None:
        """Add the local files that settings of uv name.

        :param path: the directory to which they are relative.
        :param settings: the table `[tool.uv]`.
        """
        from packaging.utils import canonicalize_name

        for name, source in _table(settings, "sources").items():
            for each in source if isinstance(source, list) else [source]:
                if isinstance(each, dict) and isinstance(each.get("path"), str):
                    if Path(each["path"]).is_absolute():
                        raise InvalidArgumentError(
                            f"The source {each['path']} in {path} is absolute. Make it relative."
                        )
                    self.add_local(_normal(path / each["path"]))
                    if source == each:
                        self.named.setdefault(canonicalize_name(name), _normal(path / each["path"]))
        places = [index.get("url") for index in settings.get("index", [])]
        for table in (settings, _table(settings, "pip")):
            for name in ("index-url", "extra-index-url", "find-links"):
                value = table.get(name, [])
                places += value if isinstance(value, list) else [value]
        for place in places:
            if "://" not in str(place):
                self.add_directory(_normal(path / str(place)))


def is_installable(path: Path) -> bool:
    """Whether a path is a project, an sdist or a wheel."""
    if path.is_file():
        return path.name.endswith(ARCHIVES)
    return any((path / name).is_file() for name in ("pyproject.toml", "setup.py"))


def copy_of(path: Path, root: Path) -> Path:
    """Return where `InputTree.copy_to` places a file."""
    return root / path.relative_to(path.anchor)


def project_digest(path: Path) -> str:
    """Return the hex sha256 of a project's files, or of an sdist or wheel. Its path makes no difference."""
    if path.is_file():
        return sha256_of(path)
    tree = InputTree(path)
    for file in walk(path):
        tree.add(file)
    return tree.digest()


def check_strings(data: Any, path: Path) -> None:
    """Check that the strings in the data of a file have no credentials and no variables, which uv would expand.

    :raises InvalidArgumentError: if one has.
    """
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        check_strings(value, path)
    if isinstance(data, str):
        check_urls(data, f"something in {path}")


def _local_packages(lock: dict[str, Any], project: str) -> Iterator[str]:
    """Yield the paths of the local packages that a project needs; of all, if the lock does not name the project."""
    packages: dict[str, list[dict[str, Any]]] = {}
    places: dict[str, str] = {}
    for package in lock.get("package", []):
        packages.setdefault(package["name"], []).append(package)
        source = package.get("source", {})
        place = next((source[kind] for kind in _LOCAL_SOURCES if kind in source), None)
        if place is not None:
            places[package["name"]] = place
    queue = [name for name, place in places.items() if place == project] or list(places)
    seen = set(queue)
    while queue:
        for package in packages.get(queue.pop(), []):
            tables = [package.get("optional-dependencies", {}), package.get("dev-dependencies", {})]
            listed = [package.get("dependencies", []), *(each for table in tables for each in table.values())]
            new = {each["name"] for dependencies in listed for each in dependencies} - seen
            seen |= new
            queue += new
    yield from sorted(places[name] for name in seen & places.keys())


def _glob(root: Path, patterns: list[str]) -> list[Path]:
    return [_normal(path) for pattern in patterns for path in sorted(root.glob(str(pattern)))]


def _read(data: dict[str, Any]) -> dict[str, Any]:
    """Return what uv reads of the table [project]."""
    return {name: value for name, value in _table(data, "project").items() if name in _READ}


def _refuse_sources_of_others(data: dict[str, Any], path: Path) -> None:
    for tool, table in (("poetry", "dependencies"), ("pixi", "pypi-dependencies")):
        for name, source in _table(data, "tool", tool, table).items():
            odd = sorted({"path", "git", "url", "source", "index"} & set(source)) if isinstance(source, dict) else []
            if odd and ("project" in data or odd == ["source"]):
                raise InvalidArgumentError(
                    f"{path} says in [tool.{tool}.{table}] where {name} comes from ({odd[0]}), which uv does not read."
                    " Write it into [tool.uv.sources]."
                )


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    unknown = sorted(_table(settings, "pip").keys() - _PIP_SETTINGS)
    if unknown:
        raise InvalidArgumentError(
            f"The settings of uv in {path} have `pip.{unknown[0]}`, with which something else may be installed than the"
            " file says. Remove it, or move it to the command line that needs it."
        )


def _checked(data: dict[str, Any]) -> list[Any]:
    """Return those parts of a pyproject.toml that say what is installed."""
    tools = [_table(data, "tool", name) for name in ("uv", "poetry")]
    return [_read(data), data.get("dependency-groups"), data.get("build-system"), *tools]


def _read_if_file(path: Path) -> dict[str, Any]:
    return read_toml(path) if path.is_file() else {}


def _table(data: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = data.get(name, {})
        data = value if isinstance(value, dict) else {}
    return data


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))
