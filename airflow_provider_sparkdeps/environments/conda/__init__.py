"""Environments of conda packages, and copies of installed conda environments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_sparkdeps.environments.base import BuildOptions, CommonOptions, Environment, list_of_strings
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.platforms import current_python

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.environments.conda.lock_files import LockedPackages
    from airflow_provider_sparkdeps.environments.conda.specs import CondaPackages


class ChannelOptions(BuildOptions, total=False):
    """Arguments for private channels; see `CondaEnvironment`."""

    channel_conn_ids: Sequence[str]


class InstalledOptions(CommonOptions, total=False):
    """Arguments of copies of installed environments; see `CondaEnvironment`."""

    ignore_missing_files: bool


@dataclass(frozen=True)
class CondaEnvironment(Environment):
    """Packages from conda channels, with conda's Python, and optionally packages from a Python index.

    .. code-block:: python

        maps = CondaEnvironment(["gdal=3.10", "geopandas"], channels=["conda-forge"], pip=["my-rules>=2"])
        from_file = CondaEnvironment.from_file("environment.yml")
        existing = CondaEnvironment.from_prefix("/opt/conda/envs/maps")

    The builder needs `airflow-provider-sparkdeps[conda]`, but no conda. Scripts that conda runs after linking packages
    are never run. Those that it runs when it activates an environment are run once, by the build.

    :param dependencies: conda specs. Order, whitespace and comments make no difference. Python is always included. UDFs
        that use Arrow need pyarrow (and pandas) here, but not pyspark, which Spark's workers provide.
    :param channels: names, URLs and absolute paths, in order of priority; no other channels are used, but those of
        specs such as `conda-forge::gdal`. `defaults` is that of Anaconda.
    :param pip: PEP 508 strings. uv installs them without changing the conda packages.
    :param explicit: instead of dependencies: URLs of packages, each with an optional `#<md5>` or `#sha256:<sha256>`.
    :param file: instead of dependencies: an environment.yml, see `from_file`.
    :param lock: instead of dependencies: a lock file, see `from_lock`.
    :param lock_environment: environment of a pixi.lock.
    :param prefix: instead of dependencies: an installed environment, see `from_prefix`.
    :param name: instead of dependencies: the name of an installed environment, see `from_name`.
    :param ignore_missing_files: pack an installed environment even if files of its conda packages are missing.
    :param channel_conn_ids: Airflow connections with the logins of private channels. Without a login name, the password
        is sent as a bearer token; with the login name `conda-token`, it becomes part of the URL as `/t/<token>/`. All
        channels of a host share one login.
    :param index_conn_id: Airflow connection of a private package index for `pip`.
    :param base_dir: directory that relative paths start from. By default that of the file that creates the environment
        (the DAG file), or the working directory in a notebook.
    :param python: minor version such as "3.12"; by default the worker's, which pickles the UDFs.
    :param platform: what it is built for; by default this machine's.
    :param glibc: the oldest C library that executors have, such as "2.28". Not checked by default.
    :param env_vars: environment variables of the Python workers. Manifests contain them: never write a secret.
    :raises InvalidArgumentError: if an argument is invalid. Files are read later, by `key` and `build`.
    """

    dependencies: Sequence[str] = ()
    channels: Sequence[str] = field(default=(), kw_only=True)
    pip: Sequence[str] = field(default=(), kw_only=True)
    explicit: Sequence[str] = field(default=(), kw_only=True)
    file: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    lock: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    lock_environment: str = field(default="default", kw_only=True)
    prefix: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    name: str | None = field(default=None, kw_only=True)
    ignore_missing_files: bool = field(default=False, kw_only=True)
    channel_conn_ids: Sequence[str] = field(default=(), kw_only=True, compare=False)

    kind: ClassVar[str] = "conda"

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.conda.specs import CondaPackages, check_python

        super().__post_init__()
        packages = CondaPackages(self.dependencies, self.channels, self.pip, self.explicit)
        for name in ("dependencies", "channels", "pip", "explicit"):
            object.__setattr__(self, name, getattr(packages, name))
        conn_ids = list_of_strings(self.channel_conn_ids, "channel_conn_ids", '["conda"]')
        object.__setattr__(self, "channel_conn_ids", tuple(conn_ids))
        sources = ("dependencies", "explicit", "file", "lock", "prefix", "name")
        if len([name for name in sources if getattr(self, name) not in ((), None)]) != 1:
            raise InvalidArgumentError(
                f"CondaEnvironment needs exactly one of {', '.join(sources)}. Write for example"
                ' CondaEnvironment(["pandas <3"], channels=["conda-forge"]) or CondaEnvironment.from_file("...").'
            )
        if self.dependencies and not self.channels:
            raise InvalidArgumentError('channels is empty. Write for example channels=["conda-forge"].')
        check_python(self.dependencies, self.python or current_python())
        if self._is_installed and self.pip:
            raise InvalidArgumentError(
                "pip can't be combined with an installed environment. Install the packages there instead."
            )
        paths = [name for name in ("file", "lock", "prefix") if getattr(self, name) is not None]
        for name in paths:
            self._check_path(name, example="/opt/conda/envs/maps" if name == "prefix" else "environment.yml")
        self._set_base_dir(has_paths=bool(paths))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        channels: Sequence[str] = (),
        pip: Sequence[str] = (),
        **options: Unpack[ChannelOptions],
    ) -> CondaEnvironment:
        """Return the environment that an `environment.yml` describes.

        The file is read when the key is asked for, and by the build. Its channels, dependencies, `pip:` section and
        variables are used; its name makes no difference.

        :param path: of the file.
        :param channels: channels to use if the file has none.
        :param pip: PEP 508 strings, in addition to those of the file.
        :param options: see `CondaEnvironment`.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(file=path, channels=channels, pip=pip, **options)

    @classmethod
    def from_lock(
        cls,
        path: str | os.PathLike[str],
        *,
        environment: str = "default",
        pip: Sequence[str] = (),
        **options: Unpack[ChannelOptions],
    ) -> CondaEnvironment:
        """Return the environment that a lock file describes. It is read when the key is asked for, and by the build.

        :param path: of an `@EXPLICIT` list (`conda list --explicit --sha256`), a pixi.lock or a conda-lock.yml. Of the
            latter two, the packages for one platform are used, and of conda-lock's categories only `main`.
        :param environment: environment of a pixi.lock.
        :param pip: PEP 508 strings, in addition to those of the lock.
        :param options: see `CondaEnvironment`.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(lock=path, lock_environment=environment, pip=pip, **options)

    @classmethod
    def from_prefix(
        cls,
        path: str | os.PathLike[str],
        **options: Unpack[InstalledOptions],
    ) -> CondaEnvironment:
        """Return a copy of an installed environment.

        Its key depends on the packages that conda and pip have installed, which are read when the key is asked for; it
        does not depend on files that were edited by hand.

        :param path: of the environment, which is only read.
        :param options: see `CondaEnvironment`.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(prefix=path, **options)

    @classmethod
    def from_name(
        cls,
        name: str,
        **options: Unpack[InstalledOptions],
    ) -> CondaEnvironment:
        """Return a copy of an installed environment with a name, as conda, mamba and micromamba find it.

        :param name: of the environment.
        :param options: see `CondaEnvironment`.
        :raises InvalidArgumentError: if an argument is invalid.
        """
        return cls(name=name, **options)

    @property
    def conn_ids(self) -> tuple[str, ...]:
        """The IDs of the connections whose `Login` a build needs."""
        return (*self.channel_conn_ids, *super().conn_ids)

    def inputs(self) -> dict[str, Any]:
        """Return what is installed, as JSON-compatible data.

        :raises InvalidArgumentError: if a file can't be read, or its contents are invalid.
        """
        from airflow_provider_sparkdeps.environments.conda import existing, lock_files

        if self._is_installed:
            digest = existing.digest(self._find_installed()[0])
            return {"installed": digest, "ignore_missing_files": self.ignore_missing_files}
        if self.lock:
            digest = lock_files.digest(self._absolute(self.lock))
            return {"lock": digest, "environment": self.lock_environment, "pip": self.pip}
        return vars(self._read_packages())

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as JSON-compatible data; files by name."""
        from airflow_provider_sparkdeps.environments.input_files import display_path

        lists = ("dependencies", "channels", "pip", "explicit", "channel_conn_ids")
        options: dict[str, Any] = {name: list(getattr(self, name)) for name in lists}
        paths = {name: getattr(self, name) for name in ("file", "lock", "prefix")}
        options |= {name: display_path(Path(path)) for name, path in paths.items() if path}
        options |= {"name": self.name, "ignore_missing_files": self.ignore_missing_files}
        options["lock_environment"] = self.lock and self.lock_environment
        return {name: value for name, value in options.items() if value}

    @property
    def _is_installed(self) -> bool:
        return self.prefix is not None or self.name is not None

    def _installed_minor(self) -> str:
        return self._find_installed()[1]

    @property
    def _summary(self) -> str:
        from airflow_provider_sparkdeps.environments.input_files import display_path

        if self._is_installed:
            return Path(self.prefix or self.name or "").name
        if path := self.file or self.lock:
            return display_path(Path(path))
        return f"{len(self.explicit)} packages" if self.explicit else ", ".join([*self.dependencies, *self.pip])

    def _find_installed(self) -> tuple[Path, str]:
        """Return the path of the installed environment, and the minor version of its Python."""
        from airflow_provider_sparkdeps.environments.conda import existing

        path = self._absolute(self.prefix) if self.prefix else existing.find(self.name or "")
        minor = ".".join(existing.python_version(path).split(".")[:2])
        self._check_minor(path, minor)
        return path, minor

    def _read_packages(self) -> CondaPackages:
        from airflow_provider_sparkdeps.environments.conda import environment_yml
        from airflow_provider_sparkdeps.environments.conda.specs import (
            CondaPackages,
            check_python,
            normalize_channels,
        )

        if not self.file:
            return CondaPackages(self.dependencies, self.channels, self.pip, self.explicit)
        path = self._absolute(self.file)
        found = environment_yml.read_environment_yml(path)
        channels = normalize_channels(found["channels"])
        if channels and self.channels:
            raise InvalidArgumentError(
                f"{path} has channels, and channels={list(self.channels)} are passed. Remove one of them."
            )
        packages = CondaPackages(
            found["dependencies"],
            channels or self.channels,
            [*found["pip"], *self.pip],
            variables=found["variables"],
        )
        if not packages.channels:
            raise InvalidArgumentError(
                f"{path} names no channels, so that conda would use those of its configuration. Add `channels:` to it,"
                ' or pass channels=[...]: channels=["defaults"] is what conda uses by default.'
            )
        check_python(packages.dependencies, self.python_minor)
        return packages

    def _read_locked(self) -> LockedPackages | None:
        from airflow_provider_sparkdeps.environments.conda import lock_files
        from airflow_provider_sparkdeps.environments.conda.rattler import explicit_records

        if self.explicit:
            return lock_files.LockedPackages(explicit_records(self.explicit))
        if not self.lock:
            return None
        path = self._absolute(self.lock)
        return lock_files.read_lock(path, platform=self.platform, environment=self.lock_environment)

    def _make_builder(self, scratch: Path, context: BuildContext) -> Builder:
        try:
            import conda_pack  # noqa: F401
            import rattler  # noqa: F401
        except ImportError as error:
            raise BuildError(
                f"Conda environments need packages that are not installed here: {error}. Run"
                " `pip install 'airflow-provider-sparkdeps[conda]'`."
            ) from error
        from airflow_provider_sparkdeps.environments.conda.build import CondaBuilder, InstalledBuilder

        if self._is_installed:
            return InstalledBuilder(self._find_installed()[0], context, self.ignore_missing_files)
        # All logins, so that a missing one is reported before anything is downloaded.
        logins = [context.login(conn_id) for conn_id in self.conn_ids][: len(self.channel_conn_ids)]
        return CondaBuilder(self, self._read_packages(), self._read_locked(), logins, scratch, context)
