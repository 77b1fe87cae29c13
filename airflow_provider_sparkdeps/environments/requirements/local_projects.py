"""Projects and wheels of this machine: what is in them, and how they become wheels."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.environments import input_files
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.uv import Uv

_SDISTS = (".tar.gz", ".zip")


@dataclass(frozen=True)
class Local:
    """A project's directory, an sdist or a wheel on this machine that requirements refer to.

    :param path: absolute.
    :param extras: of it that are wanted, such as "[fast]"; else empty.
    :param marker: when it applies; always if empty.
    """

    path: Path
    extras: str = ""
    marker: str = ""

    @property
    def digest(self) -> str:
        """Hex sha256 of its contents, wherever it lies.

        :raises InvalidArgumentError: when there is nothing there that can be installed.
        """
        if not self.path.is_dir():
            if not self.path.name.endswith((".whl", *_SDISTS)):
                raise InvalidArgumentError(
                    f"{self.path} is neither a project's directory nor a wheel. Correct the path."
                )
            return input_files.sha256_of(self.path)
        if not any((self.path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            raise InvalidArgumentError(
                f"{self.path} has no pyproject.toml, so it can't be built. Add one, or correct the path."
            )
        lines = [f"{name}\0{input_files.sha256_of(path)}\n" for name, path in input_files.project_files(self.path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def inputs(self) -> dict[str, str]:
        """Return what a key depends on; a wheel's name says what it may be installed on."""
        name = {"name": self.path.name} if self.path.suffix == ".whl" else {}
        return {"sha256": self.digest, "extras": self.extras, "marker": self.marker, **name}


@dataclass(frozen=True)
class Wheel:
    """A wheel that was built of a `Local`, or is one."""

    name: str
    version: str
    path: Path
    local: Local
    digest: str

    @property
    def requirement(self) -> str:
        """The wheel, for the resolver."""
        marker = f" ; {self.local.marker}" if self.local.marker else ""
        return f"{self.name}{self.local.extras} @ {self.path.as_uri()}{marker}"

    @property
    def locked(self) -> str:
        """The wheel, for the lock: by content, since its path means nothing elsewhere."""
        return f"{self.name}=={self.version} (sha256 {self.digest})"


def with_path_dependencies(locals_: Iterable[Local]) -> tuple[Local, ...]:
    """Return projects along with those that they name by path in `[tool.uv.sources]`, sorted.

    :raises InvalidArgumentError: when they name what can't be followed.
    """
    found: dict[Local, None] = {}
    queue = list(locals_)
    while queue:
        local = queue.pop()
        if local in found:
            continue
        found[local] = None
        if (local.path / "pyproject.toml").is_file():
            queue += _siblings(local)
    return tuple(sorted(found, key=lambda local: (str(local.path), local.extras, local.marker)))


def _siblings(local: Local) -> list[Local]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    project = local.path / "pyproject.toml"
    data = input_files.read_toml(project)
    sources = {canonicalize_name(name): source for name, source in uv_sources(data).items()}
    siblings = []
    for line in data.get("project", {}).get("dependencies", []) if sources else []:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise InvalidArgumentError(
                f"{project}: {line!r} is not a requirement ({error}). Correct it there."
            ) from error
        source = sources.get(canonicalize_name(requirement.name))
        if source is None:
            continue
        if not isinstance(source, dict) or "path" not in source:
            raise InvalidArgumentError(
                f"{project}: [tool.uv.sources] has {requirement.name!r} come from {source}; of a local project only"
                ' `path = "..."` is followed. Use VenvEnvironment.from_file() with the uv.lock of the whole.'
            )
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        siblings.append(Local((local.path / source["path"]).resolve(), extras, str(requirement.marker or "")))
    return siblings


def uv_sources(data: dict[str, Any]) -> dict[str, Any]:
    """Return `[tool.uv.sources]` of a pyproject.toml's data."""
    sources = data.get("tool", {}).get("uv", {}).get("sources", {})
    return dict(sources) if isinstance(sources, dict) else {}


def build_wheels(locals_: Iterable[Local], *, uv: Uv, scratch: Path, python: Path) -> list[Wheel]:
    """Build what isn't a wheel yet, from copies: a build leaves its traces next to the sources.

    :raises BuildError: with the build backend's own words.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    wheels = []
    for number, local in enumerate(locals_):
        digest, path = local.digest, local.path
        if path.suffix != ".whl":
            here = scratch / f"local-{number}"
            source = _copy(path, here / path.name)
            uv.build_wheel(source, here / "wheel", python=python, title=path.name)
            built = list((here / "wheel").glob("*.whl"))
            if len(built) != 1:
                raise BuildError(f"Building {path.name} made {len(built)} wheels instead of one.")
            path = built[0]
        name, version, _, _ = parse_wheel_filename(path.name)
        wheels.append(Wheel(canonicalize_name(name), str(version), path, local, digest))
    return wheels


def _copy(path: Path, target: Path) -> Path:
    if path.is_file():
        target.parent.mkdir(parents=True)
        return Path(shutil.copyfile(path, target))
    for name, file in input_files.project_files(path):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / name)
    return target
