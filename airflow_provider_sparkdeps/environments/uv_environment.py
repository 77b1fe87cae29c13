"""What environments that uv resolves have in common: requirements, from a list or from a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from airflow_provider_sparkdeps.environments.base import BuildOptions, Environment, list_of_strings
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.requirements.uv_inputs import UvInputs


class UvOptions(BuildOptions, total=False):
    """Arguments of `VenvEnvironment`, of which `PexEnvironment` does not have the last two; see there."""

    bundle_python: bool
    slim_python: bool


@dataclass(frozen=True)
class UvEnvironment(Environment):
    """Packages from a Python index, resolved by uv.

    :param requirements: PEP 508 strings, and paths of projects and wheels such as "./my_lib". Order, whitespace and
        comments make no difference.
    :param file: instead of requirements: a file of them, see `from_file` and `from_lock`.
    :param extras: of the project or lock in the file.
    :param groups: dependency groups of the project or lock in the file.
    :raises InvalidArgumentError: if an argument is invalid. Files are read later, by `key` and `build`.
    """

    requirements: Sequence[str] = ()
    file: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    extras: Sequence[str] = field(default=(), kw_only=True)
    groups: Sequence[str] = field(default=(), kw_only=True)

    _existing: ClassVar[str]
    """Name of the argument for what is already built, instead of requirements or a file."""

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.requirements.pep508 import is_local, normalize_requirements

        super().__post_init__()
        given = [name for name in ("requirements", "file", self._existing) if getattr(self, name) not in ((), None)]
        if len(given) > 1:
            raise InvalidArgumentError(
                f"{' and '.join(given)} exclude each other. Pass one of them; add packages to the file itself."
            )
        for name in ("extras", "groups"):
            object.__setattr__(self, name, self._names(name))
        if self.file is None and (self.extras or self.groups):
            raise InvalidArgumentError(
                f"extras and groups need a file to select from. Use {type(self).__name__}.from_file()."
            )
        if given in (["file"], [self._existing]):
            self._check_path(given[0], example="requirements.txt" if self.file is not None else "/opt/scoring")
        else:
            object.__setattr__(self, "requirements", normalize_requirements(self.requirements))
        self._set_base_dir(has_paths=not self.requirements or any(map(is_local, self.requirements)))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
        **options: Unpack[UvOptions],
    ) -> Self:
        """Return the environment that a file describes. The file is read when the key is asked for, and by the build.

        :param path: of a requirements.txt (with the files that it includes) or a pyproject.toml. If there is a uv.lock
            for it, its versions are installed. The project itself is not. Files as in `from_lock` and `from_script` are
            accepted, too.
        :param extras: of the pyproject.toml.
        :param groups: dependency groups of the pyproject.toml.
        :param options: see the class.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(file=path, extras=extras, groups=groups, **options)  # type: ignore[misc]

    @classmethod
    def from_lock(
        cls,
        path: str | os.PathLike[str],
        *,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
        **options: Unpack[UvOptions],
    ) -> Self:
        """Return the environment that a lock file describes. It is read when the key is asked for, and by the build.

        :param path: of a uv.lock, with the pyproject.toml next to it, or of a pylock.toml (PEP 751).
        :param extras: of the lock.
        :param groups: dependency groups of the lock.
        :param options: see the class.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        name = str(path).rpartition("/")[2]
        if name != "uv.lock" and not (name.startswith("pylock.") and name.endswith(".toml")):
            raise InvalidArgumentError(
                f"{name!r} is not the name of a lock file. Pass a uv.lock, a pylock.toml or a pylock.<name>.toml. For"
                " other files, use from_file()."
            )
        return cls(file=path, extras=extras, groups=groups, **options)  # type: ignore[misc]

    @classmethod
    def from_script(cls, path: str | os.PathLike[str], **options: Unpack[UvOptions]) -> Self:
        """Return the environment that the inline metadata of a script (PEP 723) describes.

        Its key depends on the metadata, and not on the code of the script. If there is a lock of it
        (`uv lock --script job.py`), the versions in the lock are installed.

        :param path: of the script, such as "job.py".
        :param options: see the class.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        name = str(path).rpartition("/")[2]
        if not name.endswith(".py"):
            raise InvalidArgumentError(f"{name!r} is not the name of a Python file. Pass a script, such as 'job.py'.")
        return cls(file=path, **options)  # type: ignore[misc]

    @property
    def _summary(self) -> str:
        from airflow_provider_sparkdeps.environments.input_files import display_path
        from airflow_provider_sparkdeps.environments.requirements.pep508 import display_requirement

        if path := getattr(self, self._existing):
            return Path(path).name
        selected = [*self.extras, *self.groups]
        if self.file is not None:
            return display_path(Path(self.file)) + (f" [{', '.join(selected)}]" if selected else "")
        return ", ".join(map(display_requirement, self.requirements))

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as JSON-compatible data; files by name."""
        from airflow_provider_sparkdeps.environments.input_files import display_path
        from airflow_provider_sparkdeps.environments.requirements.pep508 import display_requirement

        options: dict[str, Any] = {"requirements": [display_requirement(line) for line in self.requirements]}
        for name in ("file", self._existing):
            if getattr(self, name) is not None:
                options[name] = display_path(Path(getattr(self, name)))
        options |= {"extras": list(self.extras), "groups": list(self.groups)}
        return {name: value for name, value in options.items() if value}

    def _uv_inputs(self) -> UvInputs:
        from airflow_provider_sparkdeps.environments.requirements import uv_inputs

        base, selected = self._absolute("."), {"extras": self.extras, "groups": self.groups}
        path = self._absolute(self.file) if self.file is not None else base
        try:
            if self.file is None:
                return uv_inputs.from_list(self.requirements, base)
            if path.name in ("pyproject.toml", "uv.lock"):
                return uv_inputs.from_project(path.with_name("pyproject.toml"), **selected, python=self.python_minor)
            if path.suffix == ".toml":
                return uv_inputs.from_pylock(path, **selected)
            if self.extras or self.groups:
                raise InvalidArgumentError(f"{path.name} has no extras and groups to select from. Leave them out.")
            read = uv_inputs.from_script if path.suffix == ".py" else uv_inputs.from_requirements_txt
            return read(path, base)
        except (AttributeError, KeyError, TypeError, NotImplementedError) as error:
            raise InvalidArgumentError(
                f"{path} or a project that it names does not have the structure of its file type: {error}. Correct it."
            ) from error

    def _names(self, name: str) -> tuple[str, ...]:
        from packaging.utils import canonicalize_name

        names = list_of_strings(getattr(self, name), name, '["scoring"]')
        return tuple(sorted({canonicalize_name(each.strip()) for each in names if each.strip()}))
