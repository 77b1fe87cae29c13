"""The local files that uv reads for an environment: hashed for the key, and copied for the build."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.input_files import read_toml, sha256_of
from airflow_provider_sparkdeps.environments.requirements.pep508 import refuse_credentials
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

# What tools, editors and builds leave in a project that git does not know.
_CACHES = {
    ".git", ".hg", ".svn", ".tox", ".nox", ".eggs", ".idea", ".vscode", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    "__pycache__", ".DS_Store",
}  # fmt: skip
_CACHE_SUFFIXES = (".egg-info", ".pyc", ".log")
_SETUPTOOLS_BUILD = re.compile(r"lib.*|bdist\..*|temp\..*|scripts-.*")
_READ = ("name", "dependencies", "optional-dependencies", "requires-python", "dynamic")
_LOCAL_SOURCES = ("editable", "directory", "path", "virtual")
ARCHIVES = (".whl", ".tar.gz", ".zip")
"""Endings of the files that uv installs."""

_URL = re.compile(r"[\w+.-]+://[^\s\"',;]+")


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
    _texts: dict[Path, str | None] = field(default_factory=dict)
    _keys: dict[Path, str] = field(default_factory=dict)
    _facts: dict[str, str] = field(default_factory=dict)
    _projects: set[Path] = field(default_factory=set)
    _workspaces: set[Path] = field(default_factory=set)
    _repositories: set[Path] = field(default_factory=set)

    def digest(self) -> str:
        """Return the hex sha256 of the names and contents of all files."""
        lines = [f"{name}\0{value}\n" for name, value in self._facts.items()]
        for path in self._texts:
            key = self._keys.get(path)
            content = sha256_of(path) if key is None else hashlib.sha256(key.encode()).hexdigest()
            name = "" if path == self.entry else os.path.relpath(path, self.origin)
            lines.append(f"{name}\0{content}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def copy_to(self, root: Path) -> None:
        """Copy the files to the same paths below a directory."""
        for path, text in self._texts.items():
            target = copy_of(path, root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                shutil.copy(path, target)
            else:
                target.write_text(text, encoding="utf-8")
        for repository in sorted(self._repositories):
            _copy_repository(repository, copy_of(repository, root))

    def add(self, path: Path, text: str | None = None, *, key: Any = None) -> None:
        """Add a file.

        :param text: what uv should read instead of its contents.
        :param key: what the key depends on instead of its contents: a text, or the data of a TOML file.
        """
        if key is None:
            self._keys.pop(path, None)
        elif path not in self._texts or path in self._keys:
            self._keys[path] = key if isinstance(key, str) else json.dumps(key, sort_keys=True, default=str)
        self._texts[path] = text

    def add_directory(self, path: Path) -> None:
        """Add all files of a directory, such as one with wheels."""
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
            self.add_workspace(path)
            if not _table(data, "project").get("version"):
                self._add_version(path)

    def add_project(self, path: Path) -> dict[str, Any]:
        """Add what uv reads of a project to find its dependencies: all files, if only its build backend knows them.

        :return: the data of its pyproject.toml.
        """
        data = self._add_settings(path)
        project = _table(data, "project")
        settings = _table(data, "tool", "uv")
        if (path / "pyproject.toml").is_file():
            # What uv reads itself; for the rest it would ask the build backend.
            read = {name: value for name, value in project.items() if name in _READ}
            self.add(path / "pyproject.toml", key={**data, "project": read, "tool": {"uv": settings}})
        if project.get("dynamic") or (not project and ("build-system" in data or "poetry" in data.get("tool", {}))):
            self.add_local(path)
        return data

    def add_workspace(self, path: Path) -> Path | None:
        """Add the lock of a project, and the uv workspace that it belongs to.

        :return: the uv.lock, if there is one.
        """
        root, members = path, []
        for parent in (path, *path.parents):
            workspace = _table(_read_if_file(parent / "pyproject.toml"), "tool", "uv", "workspace")
            if workspace:
                patterns = workspace.get("members", [])
                root, members = parent, [each for pattern in patterns for each in sorted(parent.glob(str(pattern)))]
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
        refuse_credentials_in(locked, lock)
        for registry in {str(_table(each, "source").get("registry", "://")) for each in locked.get("package", [])}:
            if "://" not in registry:
                self.add_directory(_normal(root / registry))
        for place in _local_packages(locked, os.path.relpath(path, root)):
            found = _normal(root / place)
            if found != path:
                self.add_local(found)
        return lock

    def _add_settings(self, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for name in ("pyproject.toml", "uv.toml"):
            if not (path / name).is_file():
                continue
            found = read_toml(path / name)
            self.add(path / name, key=found)
            refuse_credentials_in(found, path / name)
            is_project = name == "pyproject.toml"
            data = found if is_project else data
            self.add_sources(path, _table(found, "tool", "uv") if is_project else found)
        return data

    def add_sources(self, path: Path, settings: dict[str, Any]) -> None:
        """Add the local files that settings of uv name.

        :param path: the directory to which they are relative.
        :param settings: the table `[tool.uv]`.
        """
        for source in _table(settings, "sources").values():
            for each in source if isinstance(source, list) else [source]:
                if isinstance(each, dict) and isinstance(each.get("path"), str):
                    self.add_local(_normal(path / each["path"]))
        indexes = [index.get("url") for index in settings.get("index", []) if isinstance(index, dict)]
        for url in [*indexes, settings.get("index-url"), *settings.get("find-links", [])]:
            if isinstance(url, str) and "://" not in url:
                self.add_directory(_normal(path / url))

    def _add_version(self, path: Path) -> None:
        found = _git(path, "rev-parse", "--show-toplevel")
        if found:
            # The version of the project may come from tags.
            self._repositories.add(Path(found.strip()))
            described = _git(path, "describe", "--always", "--long", "--tags", "--dirty") or ""
            self._facts[f"{os.path.relpath(path, self.origin)} in git"] = described


def is_installable(path: Path) -> bool:
    """Whether a path is a project, an sdist or a wheel."""
    if path.is_file():
        return path.name.endswith(ARCHIVES)
    return any((path / name).is_file() for name in ("pyproject.toml", "setup.py"))


def copy_of(path: Path, root: Path) -> Path:
    """Return where `InputTree.copy_to` places a file."""
    return root / path.relative_to(path.anchor)


def project_files(root: Path) -> Iterator[Path]:
    """Yield the files of a project: what git does not ignore, or without git all but caches and logs, sorted."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None:
        yield from walk(root)
        return
    logs = set()
    if ".log\0" in listed:
        logs = set((_git(root, "ls-files", "-z", "--others", "--exclude-standard", "*.log") or "").split("\0"))
    for name in sorted({*listed.split("\0")} - logs - {""}):
        path = root / name
        if path.is_dir():  # a submodule
            yield from project_files(path)
        elif path.is_file():
            yield path


def project_digest(path: Path) -> str:
    """Return the hex sha256 of a project's files, or of an sdist or wheel. Its path makes no difference."""
    if path.is_file():
        return sha256_of(path)
    tree = InputTree(path)
    for file in walk(path):
        tree.add(file)
    return tree.digest()


def walk(root: Path) -> Iterator[Path]:
    """Yield the files of a directory, sorted, without caches and logs."""
    seen: set[str] = set()
    found = []
    for directory, names, files in os.walk(root, followlinks=True):
        here = Path(directory)
        real = os.path.realpath(here)
        # A link to a parent directory would be followed forever.
        names[:] = [] if real in seen else [name for name in names if not _is_cache(here / name, at_top=here == root)]
        if real not in seen:
            found += [here / name for name in files if not _is_cache(here / name, at_top=False)]
        seen.add(real)
    yield from sorted(found)


def _is_cache(path: Path, *, at_top: bool) -> bool:
    if path.name in _CACHES or path.name.endswith(_CACHE_SUFFIXES) or (path / "pyvenv.cfg").is_file():
        return True
    if path.name == "node_modules":
        return not (path / "__init__.py").exists()
    if at_top and path.name in ("build", "dist"):
        left = _SETUPTOOLS_BUILD if path.name == "build" else re.compile(r".*\.(whl|gz|zip)")
        return all(left.fullmatch(each.name) for each in path.iterdir())
    return False


def _git(path: Path, *arguments: str) -> str | None:
    """Return the output of git; None if there is no repository, no commit or no git."""
    # Repositories of another user are only read.
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(path), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def _copy_repository(source: Path, target: Path) -> None:
    """Add the history of a repository, and the files of it that are missing, so that its state is the same."""
    clone = target.with_name(f"{target.name}.clone")
    steps = [
        ["git", "-c", "safe.directory=*", "clone", "--quiet", "--shared", "--no-checkout", str(source), str(clone)],
        ["git", "-C", str(target), "reset", "--quiet"],
        ["git", "-C", str(target), "checkout-index", "--all", "--quiet"],
    ]
    for number, step in enumerate(steps):
        done = subprocess.run(step, capture_output=True, text=True, errors="replace", timeout=600, check=False)
        if number == 0 and done.returncode == 0:
            (clone / ".git").rename(target / ".git")
            shutil.rmtree(clone)
        elif number == 0:
            raise BuildError(f"git could not copy {source}, from which a project may take its version: {done.stderr}")
    for name in (_git(source, "ls-files", "-z", "--deleted") or "").split("\0"):
        if name:
            (target / name).unlink(missing_ok=True)


def refuse_credentials_in(data: Any, path: Path) -> None:
    """Check that the strings in the data of a file contain no URLs with credentials.

    :raises InvalidArgumentError: if one does.
    """
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        refuse_credentials_in(value, path)
    for url in _URL.findall(data) if isinstance(data, str) else ():
        refuse_credentials(url, f"something in {path}")


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


def _read_if_file(path: Path) -> dict[str, Any]:
    return read_toml(path) if path.is_file() else {}


def _table(data: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        value = data.get(name, {})
        data = value if isinstance(value, dict) else {}
    return data


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))
