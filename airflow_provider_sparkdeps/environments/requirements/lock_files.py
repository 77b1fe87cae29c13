"""Reads pylock.toml files (PEP 751), as uv writes them and as users pass them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments.input_files import read_toml
from airflow_provider_sparkdeps.exceptions import BuildError

_SOURCES = ("vcs", "directory", "archive", "sdist")


@dataclass(frozen=True)
class LocalPackage:
    """A package of a lock that is on this machine.

    :param name: canonical name.
    :param version: that it must have; empty if any is allowed.
    :param path: absolute path of a project, an sdist or a wheel.
    :param hashes: that the file must have, by algorithm.
    """

    name: str
    version: str
    path: Path
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class SelectedPackages:
    """The packages of a pylock.toml for one interpreter on one platform.

    :param head: the data of the file, without packages.
    :param packages: to install from an index, a URL or a repository.
    :param local: local projects, sdists and wheels.
    """

    head: dict[str, Any]
    packages: tuple[dict[str, Any], ...]
    local: tuple[LocalPackage, ...]

    @property
    def lock(self) -> tuple[str, ...]:
        """One line for each package that is not local, sorted."""
        return tuple(sorted(map(_line, self.packages)))

    def to_toml(self) -> str:
        """Return the contents of a pylock.toml with these packages."""
        return _lines(self.head) + "".join(f"\n[[packages]]\n{_lines(package)}" for package in self.packages)


def select_packages(
    path: Path,
    *,
    extras: Collection[str],
    groups: Collection[str],
    environment: dict[str, str],
    without: Collection[str] = (),
    indexes: Mapping[str, str] | None = None,
    title: str,
) -> SelectedPackages:
    """Return the packages of a pylock.toml whose markers apply.

    :param path: of the file, to whose directory local paths are relative.
    :param extras: to install.
    :param groups: dependency groups to install, besides the default ones of the file.
    :param environment: values of PEP 508's markers for the interpreter and platform.
    :param without: names of packages that are left out.
    :param indexes: the index of packages, where the lock does not name it.
    :param title: what the user knows the file by.
    :raises BuildError: if the lock is not for this interpreter, or has a package twice or without a source.
    """
    from packaging.markers import Marker
    from packaging.utils import canonicalize_name

    data = read_toml(path)
    head = {name: value for name, value in data.items() if name in ("lock-version", "created-by", "requires-python")}
    markers = data.get("environments", [])
    if markers and not any(Marker(each).evaluate(environment, context="requirement") for each in markers):
        raise BuildError(
            f"{title} is not for Python {environment['python_full_version']} on {environment['sys_platform']}: it"
            f" was locked for {' and '.join(map(repr, markers))}. Lock it for this environment, too."
        )
    chosen = set(groups) | set(data.get("default-groups", []))
    context: dict[str, Any] = {**environment, "extras": set(extras), "dependency_groups": chosen}
    excluded = {canonicalize_name(each) for each in without}
    selected: dict[str, dict[str, Any]] = {}
    local = []
    for package in data.get("packages", []):
        marker = package.get("marker")
        name = canonicalize_name(package["name"])
        if name in excluded or (marker and not Marker(marker).evaluate(context, context="lock_file")):
            continue
        if name in selected:
            raise BuildError(f"{title} selects {name} twice. Lock it again.")
        selected[name] = {each: value for each, value in package.items() if each not in ("marker", "dependencies")}
        if indexes and name in indexes:
            selected[name].setdefault("index", indexes[name])
        place = _local_path(package)
        if place is not None:
            found, hashes = place
            version = str(package.get("version", ""))
            local.append(LocalPackage(name, version, Path(os.path.normpath(path.parent / found)), hashes))
            del selected[name]
    return SelectedPackages(head, tuple(selected.values()), tuple(local))


def _line(package: dict[str, Any]) -> str:
    name = package["name"]
    vcs, archive = package.get("vcs"), package.get("archive")
    if vcs:
        folder = f"#subdirectory={vcs['subdirectory']}" if "subdirectory" in vcs else ""
        return f"{name} @ {vcs.get('type', 'git')}+{vcs.get('url')}@{vcs.get('commit-id')}{folder}"
    if archive:
        return f"{name} @ {archive.get('url')}"
    if not package.get("version"):
        raise BuildError(f"The lock has no version and no source for {name}. Lock it again.")
    return f"{name}=={package['version']}"


def _local_path(package: dict[str, Any]) -> tuple[str, dict[str, str]] | None:
    """Return the path of a local project, sdist or wheel, and the hashes of the file."""
    places = [package[source] for source in _SOURCES if source in package] or package.get("wheels", [])
    for place in places:
        url, hashes = str(place.get("url", "")), place.get("hashes", {})
        if "path" in place and "://" not in url:
            return f"{place['path']}/{place.get('subdirectory', '')}", hashes
        if url.startswith("file:"):
            return unquote(urlsplit(url).path), hashes
    return None


def _lines(table: dict[str, Any]) -> str:
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
