"""Lock files: pylock.toml (PEP 751), and uv.lock, which uv exports as one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.input_files import read_toml
from airflow_provider_sparkdeps.environments.requirements.local_projects import Local
from airflow_provider_sparkdeps.environments.requirements.pep508 import refuse_credentials
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError


@dataclass(frozen=True)
class Chosen:
    """What a lock file says for one interpreter on one platform.

    :param packages: as they stand in the lock, without those of this machine.
    :param locals: projects and wheels of this machine.
    :param lock: the packages' lines.
    """

    packages: tuple[dict[str, Any], ...]
    locals: tuple[Local, ...]
    lock: tuple[str, ...]

    def to_toml(self) -> str:
        """Return the packages as a pylock.toml of its own."""
        head = 'lock-version = "1.0"\ncreated-by = "sparkdeps"\n'
        return head + "".join(f"\n[[packages]]\n{_toml_lines(package)}" for package in self.packages)


def read_pylock(path: Path, *, extras: Sequence[str], groups: Sequence[str]) -> RequirementSet:
    """Return what a pylock.toml wants.

    :raises InvalidArgumentError: when it can't be read or meant.
    """
    data = read_toml(path)
    version = str(data.get("lock-version", ""))
    if not version.startswith("1.") or not isinstance(data.get("packages"), list):
        raise InvalidArgumentError(
            f"{path} is no pylock.toml of version 1.x (PEP 751). Make one: `uv export --format pylock.toml`."
        )
    for what, chosen, there in (("extras", extras, "extras"), ("groups", groups, "dependency-groups")):
        unknown = sorted(set(chosen) - set(data.get(there, [])))
        if unknown:
            raise InvalidArgumentError(f"{path} was locked without the {what} {unknown}; it has {data.get(there, [])}.")
    _refuse_credentials(path, data)
    locals_ = tuple(local for package in data["packages"] if (local := _local(package, path.parent)))
    return RequirementSet(
        pylock=_with_absolute_paths(data, path.parent), locals=locals_, extras=tuple(extras), groups=tuple(groups)
    )


def read_uv_lock(
    path: Path, *, project: dict[str, Any], extras: Sequence[str], groups: Sequence[str]
) -> RequirementSet:
    """Return what a uv.lock wants; it is exported when it is built.

    :param project: data of the pyproject.toml next to it.
    :raises InvalidArgumentError: when it can't be read, or doesn't fit the project any more.
    """
    data = read_toml(path)
    packages = data.get("package", [])
    _refuse_credentials(path, data)
    _check_is_current(path, project, packages)
    locals_ = []
    for package in packages:
        source = package.get("source", {})
        place = source.get("editable") or source.get("directory") or source.get("path")
        if place and place != ".":
            locals_.append(Local((path.parent / place).resolve()))
    return RequirementSet(
        uv_lock=data, uv_project=path.parent, locals=tuple(locals_), extras=tuple(extras), groups=tuple(groups)
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
        raise InvalidArgumentError(f"{path.with_name('pyproject.toml')}: {error}. Correct it there.") from error
    locked = {
        (each["name"], SpecifierSet(each.get("specifier", "")))
        for each in own.get("metadata", {}).get("requires-dist", [])
        if "extra ==" not in each.get("marker", "")
    }
    if wants != locked:
        differing = ", ".join(sorted({name for name, _ in wants ^ locked}))
        raise InvalidArgumentError(
            f"{path} is older than the pyproject.toml next to it ({differing}). Run `uv lock` there."
        )


_OWN = ("virtual", "editable", "directory")
_PLACES = ("directory", "archive", "wheels", "sdist")


def choose(wanted: RequirementSet, *, marker_environment: dict[str, str]) -> Chosen:
    """Return those packages of a pylock.toml that apply.

    :param wanted: with its `pylock`.
    :param marker_environment: of the interpreter and platform that it is for (PEP 508).
    :raises BuildError: when a package comes as nothing that can be installed.
    """
    from packaging.markers import Marker

    data = wanted.pylock or {}
    groups = set(wanted.groups) | set(data.get("default-groups", []))
    context: dict[str, Any] = {**marker_environment, "extras": set(wanted.extras), "dependency_groups": groups}
    packages, locals_, lock = [], [], []
    for package in data.get("packages", []):
        marker = package.get("marker")
        if marker and not Marker(marker).evaluate(context, context="lock_file"):
            continue
        local = _local(package, Path())
        if local is not None:
            locals_.append(local)
            continue
        packages.append({name: value for name, value in package.items() if name not in ("marker", "dependencies")})
        lock.append(_line(package))
    return Chosen(tuple(packages), tuple(locals_), tuple(sorted(lock)))


def _line(package: dict[str, Any]) -> str:
    name = package.get("name", "?")
    vcs, archive = package.get("vcs"), package.get("archive")
    if vcs:
        return f"{name} @ {vcs.get('type', 'git')}+{vcs.get('url')}@{vcs.get('commit-id')}"
    if archive:
        return f"{name} @ {archive.get('url')}"
    if not package.get("version"):
        raise BuildError(f"The lock names {name} without a version or a source. Lock it again.")
    return f"{name}=={package['version']}"


def _local(package: dict[str, Any], base: Path) -> Local | None:
    """Return where a package of a lock lies, if that is on this machine."""
    wheels = [wheel for wheel in package.get("wheels", []) if _is_here(wheel)]
    sdist = package.get("sdist", {})
    places = [package.get("directory", {}), package.get("archive", {}), *wheels, sdist]
    place = next((each["path"] for each in places if _is_here(each)), None)
    return Local((base / place).resolve()) if place else None


def _is_here(place: dict[str, Any]) -> bool:
    return "path" in place and "://" not in str(place.get("url", ""))


def _with_absolute_paths(data: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a lock in which a package of this machine has its absolute path, which is not part of the key."""
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
    # A JSON string, number or boolean is one of TOML's as well.
    return json.dumps(value, ensure_ascii=False)
