"""The normalized requirements of an environment, after all files were read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.requirements.local_projects import LocalProject, with_path_dependencies


@dataclass(frozen=True)
class RequirementSet:
    """Requirements from a list and from all files that they refer to, or the packages of a lock file.

    :param requirements: normalized PEP 508 strings, with `--hash` options if there are any.
    :param constraints: in the same form.
    :param options: options for indexes and wheels, in their order, which is significant.
    :param local_projects: local projects and wheels.
    :param pylock: data of a lock file (PEP 751), whose packages are installed exactly.
    :param uv_lock: data of a uv.lock.
    :param uv_project: directory of the uv.lock, which the build exports.
    :param extras: extras to install from the lock file.
    :param groups: dependency groups to install from the lock file.
    """

    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    local_projects: tuple[LocalProject, ...] = ()
    pylock: dict[str, Any] | None = field(default=None, hash=False)
    uv_project: Path | None = None
    uv_lock: dict[str, Any] | None = field(default=None, hash=False)
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __add__(self, other: RequirementSet) -> RequirementSet:
        return RequirementSet(
            requirements=tuple(sorted({*self.requirements, *other.requirements})),
            constraints=tuple(sorted({*self.constraints, *other.constraints})),
            options=tuple(dict.fromkeys((*self.options, *other.options))),
            local_projects=(*self.local_projects, *other.local_projects),
        )

    def inputs(self) -> dict[str, Any]:
        """Return what the key depends on, as JSON-compatible data, without empty values."""
        projects = [local.inputs() for local in with_path_dependencies(self.local_projects)]
        everything: dict[str, Any] = {
            "requirements": list(self.requirements),
            "constraints": list(self.constraints),
            "options": list(self.options),
            "locals": sorted(projects, key=lambda local: sorted(local.items())),
            "lock": _comparable(self.pylock or self.uv_lock or {}),
            "extras": list(self.extras),
            "groups": list(self.groups),
        }
        return {name: value for name, value in everything.items() if value}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to install."""
        return not (self.requirements or self.local_projects or self.pylock or self.uv_project)


# Fields that do not change what is installed: tool and time of the lock, and paths of projects, whose contents count.
_NOTES = {"created-by", "tool", "upload-time", "path", "directory", "editable"}


def _comparable(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _comparable(value) for name, value in data.items() if name not in _NOTES}
    if isinstance(data, list):
        # Lists in lock files (packages, wheels, dependencies) have no significant order.
        return sorted((_comparable(each) for each in data), key=repr)
    return data if isinstance(data, str | int | float | bool) else str(data)
