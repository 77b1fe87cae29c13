"""Environments that uv resolves and installs, or virtualenvs as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Environment, Login, Report, current_platform
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv
    from airflow_provider_sparkdeps.environments.venv.build import Order
    from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet


@dataclass(frozen=True)
class VenvEnvironment(Environment):
    """Packages from a Python index, with an interpreter, in a prefix that runs where no Python is installed.

    .. code-block:: python

        scoring = VenvEnvironment(requirements=["scikit-learn==1.7.*", "pandas<3", "pyarrow", "./my_lib"])
        locked = VenvEnvironment.from_file("pyproject.toml", extras=["scoring"])
        as_it_is = VenvEnvironment.from_prefix("/opt/venvs/scoring")

    :param requirements: PEP 508 strings, and paths of projects and wheels such as "./my_lib"; order, white space and
        comments make no difference. UDFs need pyarrow (and pandas) in it wherever they use them, but not pyspark,
        which Spark's workers bring.
    :param bundle_python: False leaves the interpreter out, for executors that have the same `pythonX.Y` on PATH.
    :param index_conn_id: Airflow connection of a private index, which is asked before all others.
    :param base: directory that relative paths start from; by default that of the file that makes the environment,
        such as the DAG file, or the current one in a notebook.
    :param python: minor version such as "3.12"; by default the worker's own, with which UDFs are pickled.
    :param platform: what it is built for; by default this machine's. For another one, such as "linux-aarch64", only
        wheels are installed, and bundle_python must be False.
    :raises InvalidArgumentError: when a value can't be meant as written. What is in files is found out later: by `key` and
        `build`.
    """

    requirements: Sequence[str] = ()
    bundle_python: bool = field(default=True, kw_only=True)
    file: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    extras: Sequence[str] = field(default=(), kw_only=True)
    groups: Sequence[str] = field(default=(), kw_only=True)
    prefix: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    index_conn_id: str | None = field(default=None, kw_only=True)
    base: str | os.PathLike[str] | None = field(default=None, kw_only=True, repr=False)

    kind: ClassVar[str] = "venv"

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.input_files import callers_directory
        from airflow_provider_sparkdeps.environments.requirements.pep508 import is_local, normalize_requirements

        super().__post_init__()
        origins = [name for name in ("requirements", "file", "prefix") if getattr(self, name) not in ((), None)]
        if len(origins) > 1:
            raise InvalidArgumentError(f"{' and '.join(origins)} are given. Take one: for both, name packages in the file.")
        if self.index_conn_id is not None and not (isinstance(self.index_conn_id, str) and self.index_conn_id):
            raise InvalidArgumentError(f"index_conn_id={self.index_conn_id!r} is no connection's id. Write one, or leave it out.")
        for name in ("extras", "groups"):
            object.__setattr__(self, name, self._names(name))
        if "file" not in origins and (self.extras or self.groups):
            raise InvalidArgumentError("extras and groups choose from a file. Use VenvEnvironment.from_file().")
        for name in ("file", "prefix"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, self._path(name))
        if not {"file", "prefix"} & {*origins}:
            object.__setattr__(self, "requirements", normalize_requirements(self.requirements))
        relative = origins != ["requirements"] or any(is_local(line) for line in self.requirements)
        base = Path(self.base).absolute() if self.base is not None else callers_directory() if relative else None
        object.__setattr__(self, "base", base if relative else None)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        extras: Sequence[str] = (),
        groups: Sequence[str] = (),
        python: str | None = None,
        **choices: Any,
    ) -> VenvEnvironment:
        """Make an environment of what a file says; it is read when the key is asked for, or the build.

        :param path: of a pep508.txt (with the files that it names), a pyproject.toml, a pylock.toml, or a
            uv.lock. A pyproject.toml with a uv.lock next to it is taken as locked; its project itself is left out.
        :param extras: of a pyproject.toml or lock.
        :param groups: dependency groups of a pyproject.toml or lock.
        :param python: minor version such as "3.12".
        :param choices: what `VenvEnvironment` takes: `bundle_python`, `index_conn_id`, `base`, `platform`.
        :raises InvalidArgumentError: when a value can't be meant as written.
        """
        return cls(file=path, extras=extras, groups=groups, python=python, **choices)

    @classmethod
    def from_prefix(cls, path: str | os.PathLike[str], **choices: Any) -> VenvEnvironment:
        """Make an environment of a virtualenv as it is, made self-contained: with a copy of its interpreter.

        :param path: of the virtualenv, which is only read.
        :param choices: what `VenvEnvironment` takes: `bundle_python`, `index_conn_id`, `base`.
        :raises InvalidArgumentError: when a value can't be meant as written.
        """
        return cls(prefix=path, **choices)

    @property
    def python_minor(self) -> str:
        """The minor version of Python that is meant; a virtualenv's own."""
        if self.prefix is None or self.python is not None:
            return super().python_minor
        return self._virtualenv().minor

    @property
    def title(self) -> str:
        """A few words for logs, such as "venv of pandas<3, pyarrow (Python 3.12)"."""
        from airflow_provider_sparkdeps.environments.input_files import as_written
        from airflow_provider_sparkdeps.environments.requirements.pep508 import shown

        if self.prefix is not None:
            return f"venv {Path(self.prefix).name}"
        chosen = [*self.extras, *self.groups]
        named = ", ".join(map(shown, self.requirements))
        if self.file is not None:
            named = as_written(Path(self.file)) + (f" [{', '.join(chosen)}]" if chosen else "")
        short = named if len(named) <= 80 else f"{named[:77]}..."
        return f"venv of {short} (Python {self.python_minor})"

    @property
    def connections(self) -> tuple[str, ...]:
        """The id of the private index's connection, if there is one."""
        return (self.index_conn_id,) if self.index_conn_id else ()

    def inputs(self) -> dict[str, Any]:
        """Return what is to be installed, as plain data.

        :raises InvalidArgumentError: when a file can't be read or meant.
        """
        index = {"index_conn_id": self.index_conn_id} if self.index_conn_id else {}
        common = {"bundle_python": self.bundle_python, **index}
        if self.prefix is not None:
            return {**common, "prefix": self._virtualenv().inputs()}
        return {**common, **self._wanted().inputs()}

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as plain data; files by name."""
        from airflow_provider_sparkdeps.environments.input_files import as_written
        from airflow_provider_sparkdeps.environments.requirements.pep508 import shown

        options: dict[str, Any] = {"bundle_python": self.bundle_python}
        if self.requirements:
            options["requirements"] = [shown(line) for line in self.requirements]
        for name in ("file", "prefix"):
            if getattr(self, name) is not None:
                options[name] = as_written(Path(getattr(self, name)))
        for name in ("extras", "groups"):
            if getattr(self, name):
                options[name] = list(getattr(self, name))
        if self.index_conn_id:
            options["index_conn_id"] = self.index_conn_id
        return options

    def resolve_lock(self, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> tuple[str, ...]:
        """Return the lock that `build` would have now; projects of this machine are built for it.

        :param report: told about each phase and its progress.
        :param timeout: seconds until it is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with uv's own words.
        """
        from airflow_provider_sparkdeps.environments.venv import build

        if self.prefix is not None:
            return self._virtualenv().lock()
        with build.workshop(self._order(timeout, logins), report=report) as shop:
            return shop.resolve(self._wanted()).lock

    def build(self, prefix: Path, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> BuiltPrefix:
        """Resolve, install and make relocatable.

        :param prefix: a directory that doesn't exist yet.
        :param report: told about each phase and its progress.
        :param timeout: seconds until the build is given up.
        :param logins: by connection id, for each of `connections`.
        :raises BuildError: with uv's own words.
        """
        from airflow_provider_sparkdeps.environments.venv import build

        if self.platform != current_platform() and (self.bundle_python or self.prefix is not None):
            raise BuildError(
                f"This machine is {current_platform()} and can't build for {self.platform}."
                " Build on a worker of that platform, or leave platform out. What comes as wheels can be built here"
                " with bundle_python=False, for executors that have their own Python."
            )
        existing = self._virtualenv() if self.prefix is not None else None
        with build.workshop(self._order(timeout, logins), report=report, parent=prefix.parent) as shop:
            lock = shop.copy(existing, prefix) if existing else shop.install(self._wanted(), prefix)
            return shop.finish(prefix, lock, bundle_python=self.bundle_python)

    def _order(self, timeout: float, logins: Mapping[str, Login]) -> Order:
        from airflow_provider_sparkdeps.environments.venv.build import Order

        missing = [conn_id for conn_id in self.connections if conn_id not in logins]
        if missing:
            raise BuildError(
                f"The login of connection {missing[0]!r} is needed for {self.title}, and was not given: a task takes it"
                " from Airflow; elsewhere, write store.build(..., logins={id: Login(url, username, password)})."
            )
        login = logins[self.index_conn_id] if self.index_conn_id else None
        return Order(self.title, self.python_minor, self.platform, timeout, login)

    def _virtualenv(self) -> Virtualenv:
        from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv

        found = Virtualenv.at(self._absolute(self.prefix))
        if self.python not in (None, found.minor):
            raise InvalidArgumentError(f"{found.prefix} has Python {found.minor}, and python={self.python!r}: leave that out.")
        return found

    def _wanted(self) -> RequirementSet:
        from airflow_provider_sparkdeps.environments.requirements import lock_files, pyproject, requirements_txt, pep508

        if self.file is None:
            return pep508.split_local(self.requirements, self._absolute("."))
        path = self._absolute(self.file)
        if path.name == "uv.lock":
            path = path.with_name("pyproject.toml")
        chosen = {"extras": self.extras, "groups": self.groups}
        try:
            if path.name == "pyproject.toml":
                return pyproject.read_project(path, **chosen, python=self.python_minor)
            if path.suffix == ".toml":
                return lock_files.read_pylock(path, **chosen)
        except (AttributeError, KeyError, TypeError) as error:
            raise InvalidArgumentError(f"{path} is not laid out as its kind of file is: {error}. Correct it there.") from error
        if self.extras or self.groups:
            raise InvalidArgumentError(f"{path.name} has no extras and groups to choose from: leave them out.")
        wanted = requirements_txt.read_requirements(path)
        if wanted.is_empty:
            raise InvalidArgumentError(f"{path} names no package. Name at least one, such as 'pandas<3'.")
        return wanted

    def _absolute(self, path: str | os.PathLike[str] | None) -> Path:
        return Path(os.path.normpath((Path(self.base) if self.base is not None else Path.cwd()) / (path or "")))

    def _path(self, name: str) -> str:
        path = getattr(self, name)
        try:
            written = os.fspath(path)
        except TypeError:
            written = b""
        if not isinstance(written, str) or not written.strip():
            example = {"file": "requirements.txt", "prefix": "/opt/venvs/scoring"}[name]
            raise InvalidArgumentError(f"{name}={path!r} is no path. Write one, such as {example!r}.")
        return str(Path(written).expanduser())

    def _names(self, name: str) -> tuple[str, ...]:
        from packaging.utils import canonicalize_name

        names = getattr(self, name)
        if isinstance(names, str | bytes) or not all(isinstance(each, str) and each.strip() for each in names):
            raise InvalidArgumentError(f"{name}={names!r} is not a list of names. Write {name}=['scoring'].")
        return tuple(sorted({canonicalize_name(each.strip()) for each in names}))
