"""Requirements as they are after all files were read: normalized, without the paths of the files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.requirements.local_projects import Local, with_path_dependencies


@dataclass(frozen=True)
class RequirementSet:
    """Requirements from a list and from all files that they refer to, or the packages of a lock file.

    :param requirements: in one spelling, with their `--hash` if they have any.
    :param constraints: of the same kind.
    :param options: lines about indexes and wheels, in their order, which counts.
    :param locals: projects and wheels of this machine.
    :param pylock: a lock file's data (PEP 751), whose packages are installed as they stand there.
    :param uv_project: a directory whose uv.lock is to be exported first.
    :param extras: of the lock file that are wanted.
    :param groups: of the lock file that are wanted.
    """

    requirements: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    locals: tuple[Local, ...] = ()
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
            locals=(*self.locals, *other.locals),
        )

    def inputs(self) -> dict[str, Any]:
        """Return what a key depends on, as plain data; what is not there is left out."""
        locals_ = [local.inputs() for local in with_path_dependencies(self.locals)]
        everything: dict[str, Any] = {
            "requirements": list(self.requirements),
            "constraints": list(self.constraints),
            "options": list(self.options),
            "locals": sorted(locals_, key=lambda local: sorted(local.items())),
            "lock": _plain(self.pylock or self.uv_lock or {}),
            "extras": list(self.extras),
            "groups": list(self.groups),
        }
        return {name: value for name, value in everything.items() if value}

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all is wanted."""
        return not (self.requirements or self.locals or self.pylock or self.uv_project)


# Who wrote a lock and when says nothing of what is locked; nor does where projects lie, whose contents count.
_NOTES = {"created-by", "tool", "upload-time", "path", "directory", "editable"}


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _plain(value) for name, value in data.items() if name not in _NOTES}
    if isinstance(data, list):
        # Lists in lock files are sets: of packages, wheels, dependencies.
        return sorted((_plain(each) for each in data), key=repr)
    return data if isinstance(data, str | int | float | bool) else str(data)
