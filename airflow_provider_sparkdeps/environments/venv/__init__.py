"""Environments that uv resolves and installs, and copies of existing virtualenvs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_sparkdeps.environments.base import CommonOptions
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder
from airflow_provider_sparkdeps.environments.uv_environment import UvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv


class PrefixOptions(CommonOptions, total=False):
    """Arguments of `VenvEnvironment.from_prefix`; see `VenvEnvironment`."""

    bundle_python: bool
    slim_python: bool


@dataclass(frozen=True)
class VenvEnvironment(UvEnvironment):
    """Packages from a Python index, with an interpreter, in a prefix that runs where no Python is installed.

    .. code-block:: python

        scoring = VenvEnvironment(["scikit-learn==1.7.*", "pandas<3", "pyarrow", "./my_lib"])
        locked = VenvEnvironment.from_lock("uv.lock", extras=["scoring"])
        existing = VenvEnvironment.from_prefix("/opt/venvs/scoring")

    :param requirements: PEP 508 strings, and paths of projects and wheels such as "./my_lib". Order, whitespace and
        comments make no difference. UDFs that use Arrow need pyarrow (and pandas) here, but not pyspark, which Spark's
        workers provide.
    :param bundle_python: False leaves the interpreter out, for executors that have the same `pythonX.Y` on PATH.
    :param slim_python: True leaves out of the bundled interpreter what Spark jobs rarely need: `tkinter`, `turtle`,
        `turtledemo`, `idlelib`, `lib2to3`, `ensurepip` and the files that compilers need. It saves
        about 7 MB of 54, and 4 MB of a packed 24.
    :param file: instead of requirements: a file of them, see `from_file` and `from_lock`.
    :param extras: of the project or lock in the file.
    :param groups: dependency groups of the project or lock in the file.
    :param prefix: instead of requirements: an existing virtualenv, see `from_prefix`.
    :param index_conn_id: Airflow connection of a private package index, which takes precedence over all others.
    :param base_dir: directory that relative paths start from. By default that of the file that creates the environment
        (the DAG file), or the working directory in a notebook.
    :param python: minor version such as "3.12"; by default the worker's, which pickles the UDFs.
    :param platform: what it is built for; by default this machine's. For another one, such as "linux-aarch64", only
        wheels are installed, and bundle_python must be False.
    :param glibc: the oldest C library that executors have, such as "2.28". Not checked by default.
    :param env_vars: environment variables of the Python workers. Manifests contain them: never write a secret.
    :raises InvalidArgumentError: if an argument is invalid. Files are read later, by `key` and `build`.
    """

    bundle_python: bool = field(default=True, kw_only=True)
    slim_python: bool = field(default=False, kw_only=True)
    prefix: str | os.PathLike[str] | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "venv"
    _existing: ClassVar[str] = "prefix"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self._python_options.items():
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"{name}={value!r} is not a bool. Write {name}=True or {name}=False.")
        if self.slim_python and not self.bundle_python:
            raise InvalidArgumentError(
                "slim_python=True needs a bundled interpreter, but bundle_python is False. Leave one of them out."
            )

    @classmethod
    def from_prefix(cls, path: str | os.PathLike[str], **options: Unpack[PrefixOptions]) -> VenvEnvironment:
        """Return a copy of an existing virtualenv, made self-contained with a copy of its interpreter.

        :param path: of the virtualenv, which is only read.
        :param options: see `VenvEnvironment`. By default, it may have any version of Python.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(prefix=path, **options)

    def inputs(self) -> dict[str, Any]:
        """Return what is installed, as JSON-compatible data.

        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        if self.prefix is not None:
            return {**self._python_options, "prefix": self._virtualenv().inputs()}
        return {**self._python_options, **self._uv_inputs().inputs()}

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as JSON-compatible data; files by name."""
        return {**self._python_options, **super().options()}

    @property
    def _python_options(self) -> dict[str, bool]:
        return {"bundle_python": self.bundle_python, "slim_python": self.slim_python}

    @property
    def _summary(self) -> str:
        # The last component of "." is empty.
        return super()._summary if self.prefix is None else self._absolute(self.prefix).name

    @property
    def _is_cross_platform(self) -> bool:
        return self.prefix is None and not self.bundle_python

    @property
    def _is_installed(self) -> bool:
        return self.prefix is not None

    def _installed_minor(self) -> str:
        return self._virtualenv().minor

    def _make_builder(self, scratch: Path, context: BuildContext) -> Builder:
        from airflow_provider_sparkdeps.environments.venv.build import VenvBuilder, VirtualenvBuilder

        if self.prefix is not None:
            return VirtualenvBuilder(self._virtualenv(), scratch, context, **self._python_options)
        return VenvBuilder(self, self._uv_inputs(), scratch, context, **self._python_options)

    def _virtualenv(self) -> Virtualenv:
        from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv

        found = Virtualenv.at(self._absolute(self.prefix or ""))
        self._check_minor(found.prefix, found.minor)
        return found
