"""Environments of conda packages: solved and installed by rattler, or installed by conda already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.platforms import current_platform

_INSTALL = "pip install 'airflow-provider-sparkdeps[conda]'"


@dataclass(frozen=True)
class CondaEnvironment(Environment):
    """Packages from conda channels, and from a Python index on top, with conda's Python.

    .. code-block:: python

        maps = CondaEnvironment(["gdal=3.10", "geopandas"], channels=["conda-forge"], pip=["my-rules>=2"])

    Needs `airflow-provider-sparkdeps[conda]` where it is built, but no conda. Scripts that packages run after they are
    linked or when an environment is activated are not run, neither on the builder nor on executors.

    :param dependencies: conda specs; order, white space and comments make no difference. UDFs need pyarrow (and
        pandas) in it wherever they use them, but not pyspark, which Spark's workers bring. Python itself is always in.
    :param channels: names, URLs and absolute paths, the most important one first; no others are used.
    :param pip: PEP 508 strings, installed by uv on top of the conda packages, whose versions stay.
    :param locked: instead of dependencies: URLs of packages with `#<md5>` or `#sha256:<sha256>`, as `from_lock` reads
        them.
    :param prefix: instead of dependencies: an installed environment, as `from_prefix` describes it.
    :param contents: what was found in it.
    :param ignore_missing_files: packs an installed environment in which files of conda's packages are gone.
    :param channel_conn_ids: Airflow connections with the logins of private channels. Without a login name, the
        password is sent as a bearer token; with `conda-token` as the login name, it goes into the URL as
        `/t/<token>/`. rattler sends a login to all channels of its host.
    :param index_conn_id: Airflow connection with the login of a private Python index, for `pip`.
    :param python: minor version such as "3.12"; by default the worker's own, with which UDFs are pickled.
    :param platform: what it is built for; by default this machine's.
    :raises InvalidArgumentError: when a value can't be meant as written.
    """

    dependencies: Sequence[str] = ()
    channels: Sequence[str] = field(default=(), kw_only=True)
    pip: Sequence[str] = field(default=(), kw_only=True)
    locked: Sequence[str] = field(default=(), kw_only=True)
    prefix: str | None = field(default=None, kw_only=True)
    contents: str | None = field(default=None, kw_only=True)
    ignore_missing_files: bool = field(default=False, kw_only=True)
    channel_conn_ids: Sequence[str] = field(default=(), kw_only=True, compare=False)

    kind: ClassVar[str] = "conda"

    def __post_init__(self) -> None:
        from airflow_provider_sparkdeps.environments.conda import specs
        from airflow_provider_sparkdeps.environments.requirements.pep508 import normalize_requirements

        super().__post_init__()
        own = object.__setattr__
        own(self, "dependencies", specs.specs(self.dependencies))
        own(self, "channels", specs.channels(self.channels))
        own(self, "locked", specs.urls(self.locked))
        own(self, "channel_conn_ids", tuple(specs.strings(self.channel_conn_ids, "channel_conn_ids", '["conda"]')))
        pip = specs.strings(self.pip, "pip", '["requests>=2"]')
        own(self, "pip", normalize_requirements(pip, paths=False) if pip else ())
        if sum(map(bool, (self.dependencies, self.locked, self.prefix))) != 1:
            raise InvalidArgumentError(
                'Say what is to be in it, in one way: CondaEnvironment(["pandas <3"], channels=["conda-forge"]),'
                " or from_file, from_lock, from_prefix or from_name."
            )
        if self.dependencies and not self.channels:
            raise InvalidArgumentError(
                'channels is empty. Name where the packages come from, such as channels=["conda-forge"].'
            )
        if self.prefix and not (self.contents and Path(self.prefix).is_absolute() and self.python):
            raise InvalidArgumentError(
                f"prefix={self.prefix!r} is not described. Use CondaEnvironment.from_prefix(...)."
            )
        if self.prefix and self.pip:
            raise InvalidArgumentError(
                "pip can't be added to an environment that exists: install it there, and pack it then."
            )
        specs.check_python(self.dependencies, self.python_minor)

    @classmethod
    def from_file(cls, path: str | Path, **options: Any) -> CondaEnvironment:
        """Read an `environment.yml`: its channels, dependencies and `pip:` section; its name makes no difference.

        :param path: of the file.
        :param options: arguments of the environment besides; `channels` is used where the file names none.
        :raises InvalidArgumentError: when it can't be read or meant as written.
        """
        from airflow_provider_sparkdeps.environments.conda import specs

        arguments = specs.environment_yml(specs.read(path, str(path)), str(path))
        given = {name: options.pop(name) for name in ("channels",) if name in options and not arguments["channels"]}
        return cls(**{**arguments, **given, **options})

    @classmethod
    def from_lock(cls, path: str | Path, *, environment: str = "default", **options: Any) -> CondaEnvironment:
        """Read a lock: an `@EXPLICIT` list (`conda list --explicit --sha256`), a pixi.lock, a conda-lock.yml.

        Of the latter two, the packages of one platform count; those of pip by name and version.

        :param path: of the file.
        :param environment: which of the environments of a pixi.lock.
        :param options: arguments of the environment besides.
        :raises InvalidArgumentError: when it can't be read or meant as written.
        """
        from airflow_provider_sparkdeps.environments.conda import specs

        platform = options.get("platform") or current_platform()
        text = specs.read(path, str(path))
        arguments = specs.locked_packages(text, str(path), platform=platform, environment=environment)
        return cls(**{**arguments, **options})

    @classmethod
    def from_prefix(cls, path: str | Path, **options: Any) -> CondaEnvironment:
        """Describe an installed environment, to pack it as it is.

        Its key comes from what conda and pip say is installed; files that were edited by hand make no difference.

        :param path: of the environment.
        :param options: arguments of the environment besides, such as `ignore_missing_files=True`.
        :raises InvalidArgumentError: when it is no conda environment with a Python.
        """
        from airflow_provider_sparkdeps.environments.conda import existing

        prefix = Path(path).expanduser().absolute()
        python, contents = existing.describe(prefix)
        return cls(prefix=str(prefix), contents=contents, python=python, **options)

    @classmethod
    def from_name(cls, name: str, **options: Any) -> CondaEnvironment:
        """Describe an installed environment, found by its name where conda, mamba and micromamba keep theirs.

        :param name: of the environment.
        :param options: as of `from_prefix`.
        :raises InvalidArgumentError: when it can't be found; says where it was looked for.
        """
        from airflow_provider_sparkdeps.environments.conda import existing

        return cls.from_prefix(existing.find(name), **options)

    @property
    def _summary(self) -> str:
        if self.prefix:
            return self.prefix
        return f"{len(self.locked)} locked packages" if self.locked else ", ".join([*self.dependencies, *self.pip])

    def inputs(self) -> dict[str, Any]:
        """Return what is to be installed, as plain data."""
        # The path of an installed environment makes no difference, nor does the login by which a channel is reached.
        left_out = {"prefix", "channel_conn_ids"}
        return {name: value for name, value in self.options().items() if name not in left_out}

    def options(self) -> dict[str, Any]:
        """Return the arguments that make an equal environment, as plain data."""
        return {
            "dependencies": list(self.dependencies),
            "channels": list(self.channels),
            "pip": list(self.pip),
            "locked": list(self.locked),
            "prefix": self.prefix,
            "contents": self.contents,
            "ignore_missing_files": self.ignore_missing_files,
            "channel_conn_ids": list(self.channel_conn_ids),
        }

    @property
    def conn_ids(self) -> tuple[str, ...]:
        """The IDs of the connections whose `Login` a build needs."""
        return (*self.channel_conn_ids, *super().conn_ids)

    def _make_builder(self, scratch: Path, context: BuildContext) -> Builder:
        try:
            import conda_pack  # noqa: F401
            import rattler  # noqa: F401
        except ImportError as error:
            raise BuildError(f"Conda environments need more than is installed here ({error}): `{_INSTALL}`.") from error
        from airflow_provider_sparkdeps.environments.conda.build import CondaBuilder, InstalledCondaBuilder

        if self.prefix:
            return InstalledCondaBuilder(Path(self.prefix), self.contents, self.ignore_missing_files, context)
        return CondaBuilder(
            self,
            tuple(self.dependencies),
            tuple(self.channels),
            tuple(self.locked),
            tuple(self.pip),
            tuple(map(context.login, self.channel_conn_ids)),
            scratch,
            context,
        )
