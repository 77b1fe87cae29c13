"""Reads lock files: pylock.toml (PEP 751), and uv.lock, which uv can export as a pylock.toml."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.input_files import read_toml
from airflow_provider_sparkdeps.environments.requirements.local_projects import LocalProject
from airflow_provider_sparkdeps.environments.requirements.pep508 import refuse_credentials
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError


@dataclass(frozen=True)
class SelectedPackages:
    """The packages of a lock file for one interpreter on one platform.

    :param packages: their data in the lock, without local projects.
    :param local_projects: local projects and wheels.
    :param lock: one line for each package.
    """

    packages: tuple[dict[str, Any], ...]
    local_projects: tuple[LocalProject, ...]
    lock: tuple[str, ...]

    def to_toml(self) -> str:
        """Return the contents of a pylock.toml with these packages."""
        head = 'lock-version = "1.0"\ncreated-by = "sparkdeps"\n'
        return head + "".join(f"\n[[packages]]\n{_toml_lines(package)}" for package in self.packages)


def read_pylock(path: Path, *, extras: Sequence[str], groups: Sequence[str]) -> RequirementSet:
    """Return the packages of a pylock.toml.

    :raises InvalidArgumentError: if it can't be read, or is invalid.
    """
    data = read_toml(path)
    version = str(data.get("lock-version", ""))
    if not version.startswith("1.") or not isinstance(data.get("packages"), list):
        raise InvalidArgumentError(
            f"{path} is not a pylock.toml of version 1.x (PEP 751). Create one with `uv export --format pylock.toml`."
        )
    for what, chosen, there in (("extras", extras, "extras"), ("groups", groups, "dependency-groups")):
        unknown = sorted(set(chosen) - set(data.get(there, [])))
        if unknown:
            raise InvalidArgumentError(
                f"{path} was locked without the {what} {unknown}, only with {data.get(there, [])}. Lock it again with"
                " them, or correct the argument."
            )
    _refuse_credentials(path, data)
    projects = tuple(local for package in data["packages"] if (local := _local(package, path.parent)))
    return RequirementSet(
        pylock=_with_absolute_paths(data, path.parent),
        local_projects=projects,
        extras=tuple(extras),
        groups=tuple(groups),
    )


def read_uv_lock(
    path: Path, *, project: dict[str, Any], extras: Sequence[str], groups: Sequence[str]
) -> RequirementSet:
    """Return the packages of a uv.lock, which the build exports as a pylock.toml.

    :param project: data of the pyproject.toml next to it.
    :raises InvalidArgumentError: if it can't be read, or is older than the pyproject.toml.
    """
    data = read_toml(path)
    packages = data.get("package", [])
    _refuse_credentials(path, data)
    _check_is_current(path, project, packages)
    projects = []
    for package in packages:
        source = package.get("source", {})
        place = source.get("editable") or source.get("directory") or source.get("path")
        if place and place != ".":
            projects.append(LocalProject((path.parent / place).resolve()))
    return RequirementSet(
        uv_lock=data, uv_project=path.parent, local_projects=tuple(projects), extras=tuple(extras), groups=tuple(groups)
    )


def _check_is_current(path: Path, project: dict[str, Any], packages: list[dict[str, Any]]) -> None:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    own = next((each for each in packages if "." in (each.get("source", {}).get(kind) for kind in _OWN)), None)
    if own is None:
        return
    try:
        wants = {
            (canonicalize_name(each.name), each.specifier)
            for each in map(Requirement, project.get("project", {}).get("dependencies", []))
        }
    except InvalidRequirement as error:
        raise InvalidArgumentError(f"{path.with_name('pyproject.toml')}: {error}. Correct the file.") from error
    locked = {
        (each["name"], SpecifierSet(each.get("specifier", "")))
        for each in own.get("metadata", {}).get("requires-dist", [])
        if "extra ==" not in each.get("marker", "")
    }
    if wants != locked:
        differing = ", ".join(sorted({name for name, _ in wants ^ locked}))
        raise InvalidArgumentError(
            f"{path} is older than the pyproject.toml next to it ({differing}). Run `uv lock` in its directory."
        )


_OWN = ("virtual", "editable", "directory")
_PLACES = ("directory", "archive", "wheels", "sdist")


def select_packages(wanted: RequirementSet, *, marker_environment: dict[str, str]) -> SelectedPackages:
    """Return the packages of a pylock.toml whose markers apply.

    :param wanted: requirements with a `pylock`.
    :param marker_environment: values of PEP 508's markers for the interpreter and platform.
    :raises BuildError: if a package has neither a version nor a source.
    """
    from packaging.markers import Marker

    data = wanted.pylock or {}
    groups = set(wanted.groups) | set(data.get("default-groups", []))
    context: dict[str, Any] = {**marker_environment, "extras": set(wanted.extras), "dependency_groups": groups}
    packages, projects, lock = [], [], []
    for package in data.get("packages", []):
        marker = package.get("marker")
        if marker and not Marker(marker).evaluate(context, context="lock_file"):
            continue
        local = _local(package, Path())
        if local is not None:
            projects.append(local)
            continue
        packages.append({name: value for name, value in package.items() if name not in ("marker", "dependencies")})
        lock.append(_line(package))
    return SelectedPackages(tuple(packages), tuple(projects), tuple(sorted(lock)))


def _line(package: dict[str, Any]) -> str:
    name = package.get("name", "?")
    vcs, archive = package.get("vcs"), package.get("archive")
    if vcs:
        return f"{name} @ {vcs.get('type', 'git')}+{vcs.get('url')}@{vcs.get('commit-id')}"
    if archive:
        return f"{name} @ {archive.get('url')}"
    if not package.get("version"):
        raise BuildError(f"The lock has no version and no source for {name}. Lock it again.")
    return f"{name}=={package['version']}"


def _local(package: dict[str, Any], base: Path) -> LocalProject | None:
    """Return a package of a lock as a local project, if it is one."""
    wheels = [wheel for wheel in package.get("wheels", []) if _is_local(wheel)]
    sdist = package.get("sdist", {})
    places = [package.get("directory", {}), package.get("archive", {}), *wheels, sdist]
    place = next((each["path"] for each in places if _is_local(each)), None)
    return LocalProject((base / place).resolve()) if place else None


def _is_local(place: dict[str, Any]) -> bool:
    return "path" in place and "://" not in str(place.get("url", ""))


def _with_absolute_paths(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a lock in which local projects have absolute paths, which are not part of the key."""
    packages = []
    for package in data["packages"]:
        local = _local(package, base)
        plain = {name: value for name, value in package.items() if name not in _PLACES}
        packages.append({**plain, "directory": {"path": str(local.path)}} if local else package)
    return {**data, "packages": packages}


def _refuse_credentials(path: Path, data: Any) -> None:
    if isinstance(data, dict):
        for value in data.values():
            _refuse_credentials(path, value)
    elif isinstance(data, list):
        for value in data:
            _refuse_credentials(path, value)
    elif isinstance(data, str) and "://" in data and " " not in data:
        refuse_credentials(data, f"a package in {path}")


def _toml_lines(table: dict[str, Any]) -> str:
    return "".join(f"{json.dumps(name)} = {_toml(value)}\n" for name, value in table.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    # Strings, numbers and booleans are written as in JSON.
    return json.dumps(value, ensure_ascii=False)
