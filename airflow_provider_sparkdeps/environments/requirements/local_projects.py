"""Local projects and wheels: their digests, dependencies and wheels."""

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
class LocalProject:
    """A local project, sdist or wheel that requirements refer to.

    :param path: absolute path of its directory or file.
    :param extras: extras to install, such as "[fast]"; empty if there are none.
    :param marker: PEP 508 marker; empty if it always applies.
    """

    path: Path
    extras: str = ""
    marker: str = ""

    @property
    def digest(self) -> str:
        """Hex sha256 of its contents. Its path makes no difference.

        :raises InvalidArgumentError: if it can't be installed.
        """
        if not self.path.is_dir():
            if not self.path.name.endswith((".whl", *_SDISTS)):
                raise InvalidArgumentError(
                    f"{self.path} is not a project directory, an sdist or a wheel. Correct the path."
                )
            return input_files.sha256_of(self.path)
        if not any((self.path / name).is_file() for name in ("pyproject.toml", "setup.py")):
            raise InvalidArgumentError(
                f"{self.path} can't be built: it has no pyproject.toml. Add one, or correct the path."
            )
        lines = [f"{name}\0{input_files.sha256_of(path)}\n" for name, path in input_files.project_files(self.path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def inputs(self) -> dict[str, str]:
        """Return what the key depends on. The name of a wheel counts, since it contains the platform."""
        name = {"name": self.path.name} if self.path.suffix == ".whl" else {}
        return {"sha256": self.digest, "extras": self.extras, "marker": self.marker, **name}


@dataclass(frozen=True)
class Wheel:
    """The wheel of a `LocalProject`: built from it, or the file itself."""

    name: str
    version: str
    path: Path
    local: LocalProject
    digest: str

    @property
    def requirement(self) -> str:
        """The requirement that the resolver is given."""
        marker = f" ; {self.local.marker}" if self.local.marker else ""
        return f"{self.name}{self.local.extras} @ {self.path.as_uri()}{marker}"

    @property
    def lock_line(self) -> str:
        """The line in the lock. It has a hash instead of the path, which is different on other machines."""
        return f"{self.name}=={self.version} (sha256 {self.digest})"


def with_path_dependencies(projects: Iterable[LocalProject]) -> tuple[LocalProject, ...]:
    """Return projects and their path dependencies in `[tool.uv.sources]`, sorted.

    :raises InvalidArgumentError: if they have a source that is not supported.
    """
    found: dict[LocalProject, None] = {}
    queue = list(projects)
    while queue:
        local = queue.pop()
        if local in found:
            continue
        found[local] = None
        if (local.path / "pyproject.toml").is_file():
            queue += _path_dependencies(local)
    return tuple(sorted(found, key=lambda local: (str(local.path), local.extras, local.marker)))


def _path_dependencies(local: LocalProject) -> list[LocalProject]:
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
                f"{project}: {line!r} is not a requirement ({error}). Correct the file."
            ) from error
        source = sources.get(canonicalize_name(requirement.name))
        if source is None:
            continue
        if not isinstance(source, dict) or "path" not in source:
            raise InvalidArgumentError(
                f"{project}: the source of {requirement.name!r} in [tool.uv.sources] is {source}, but a local project"
                ' may only have sources with `path = "..."`. Use VenvEnvironment.from_file() with its uv.lock.'
            )
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        siblings.append(LocalProject((local.path / source["path"]).resolve(), extras, str(requirement.marker or "")))
    return siblings


def uv_sources(data: dict[str, Any]) -> dict[str, Any]:
    """Return the table `[tool.uv.sources]` of a pyproject.toml."""
    sources = data.get("tool", {}).get("uv", {}).get("sources", {})
    return dict(sources) if isinstance(sources, dict) else {}


def build_wheels(projects: Iterable[LocalProject], *, uv: Uv, scratch: Path, python: Path) -> list[Wheel]:
    """Return the wheels of projects. Projects are built from copies, since builds write files into them.

    :raises BuildError: if a build fails; with the output of the build backend.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    wheels = []
    for number, local in enumerate(projects):
        digest, path = local.digest, local.path
        if path.suffix != ".whl":
            here = scratch / f"local-{number}"
            source = _copy(path, here / path.name)
            uv.build_wheel(source, here / "wheel", python=python, title=path.name)
            built = list((here / "wheel").glob("*.whl"))
            if len(built) != 1:
                raise BuildError(
                    f"The build of {path.name} made {len(built)} wheels instead of one. Correct the project."
                )
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
