"""The steps of building a conda environment: resolve with rattler and uv, install, and relocate with conda-pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.conda import activation, conda_pack, existing
from airflow_provider_sparkdeps.environments.conda.lock_files import LockedPackages
from airflow_provider_sparkdeps.environments.conda.rattler import Rattler
from airflow_provider_sparkdeps.environments.conda.specs import CondaPackages
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix, Login
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.pythons import inspect_python
from airflow_provider_sparkdeps.environments.requirements.resolve import Resolution, resolve
from airflow_provider_sparkdeps.environments.requirements.uv_inputs import from_list
from airflow_provider_sparkdeps.environments.uv import Uv
from airflow_provider_sparkdeps.exceptions import BuildError

if TYPE_CHECKING:
    from rattler import RepoDataRecord


@dataclass(eq=False)
class CondaBuilder(Builder):
    """Builds an environment from conda packages, and from packages of a Python index.

    :param environment: whose Python, platform and index are used.
    :param packages: to install.
    :param locked: the exact conda packages, if they are known, and packages of pip.
    :param channel_logins: logins of private channels.
    :param scratch: a directory for intermediate files.
    :param context: of the build.
    """

    environment: Environment
    packages: CondaPackages
    locked: LockedPackages | None
    channel_logins: Sequence[Login]
    scratch: Path
    context: BuildContext

    @cached_property
    def uv(self) -> Uv:
        """uv, with the login of the environment."""
        conn_id = self.environment.index_conn_id
        return Uv(self.scratch, self.context, login=self.context.login(conn_id) if conn_id else None)

    @cached_property
    def rattler(self) -> Rattler:
        """rattler, with the logins of the channels."""
        return Rattler(self.environment.platform, self.channel_logins, self.context)

    @cached_property
    def records(self) -> list[RepoDataRecord]:
        """The exact conda packages."""
        if self.locked:
            _check_python(self.locked.conda, self.environment.python_minor)
            return list(self.locked.conda)
        self.context.report("resolve", f"{self.environment.title}, from {', '.join(self.packages.channels)}")
        specs = [*self.packages.dependencies, f"python {self.environment.python_minor}.*"]
        return self.rattler.solve(specs, self.packages.channels)

    @cached_property
    def installed(self) -> Path:
        """A prefix in which the conda packages are installed, and what a lock has of pip's."""
        prefix = self.scratch / "environment"
        self.rattler.install(self.records, prefix)
        if not self.locked_pip:
            return prefix
        if twice := sorted(set(map(canonicalize_name, self.locked_pip)) & site_packages.installed(prefix).keys()):
            raise BuildError(
                f"The lock has {', '.join(twice)} both as a conda package and as a package of pip. One would"
                " overwrite the other. Remove one of them, and lock again."
            )
        self.context.report("install", f"locked packages of pip: {len(self.locked_pip)}")
        file = self.uv.file("requirements.txt", list(self.locked_pip.values()))
        self.uv.install(*_into(prefix), "--no-deps", as_written=file)
        return prefix

    @property
    def locked_pip(self) -> Mapping[str, str]:
        """A requirement with a URL for each package of pip in a lock, by name."""
        return self.locked.pip if self.locked else {}

    @cached_property
    def pip(self) -> Resolution:
        """The exact packages from the Python index. uv needs the installed packages to resolve them."""
        if not self.packages.pip:
            return Resolution(())
        self.context.report("resolve", f"pip: {', '.join(self.packages.pip)}")
        python = inspect_python(self.installed / "bin/python", deadline=self.context.deadline)
        if python is None:
            raise BuildError("The python of the conda packages does not run on this machine. Build on another one.")
        return resolve(
            from_list(self.packages.pip, Path("/")),
            uv=self.uv,
            base=replace(python, executable=self.installed / "bin/python"),
            platform=self.environment.platform,
            # A package of conda that pip overwrites would be broken: keep the versions of conda.
            installed=site_packages.installed(self.installed),
        )

    @property
    def lock(self) -> tuple[str, ...]:
        """The exact packages, for the manifest."""
        from_pip = [*self.locked_pip.values(), *self.pip.lock]
        return tuple(sorted([*map(_lock_line, self.records), *(f"pip:{line}" for line in from_pip)]))

    def install(self, prefix: Path) -> None:
        """Install the packages into the scratch directory, from which `relocate` copies them to the prefix."""
        _ = self.installed
        if self.pip.lock:
            self.context.report("install", f"packages of pip: {len(self.pip.lock)}")
            self.uv.install(*_into(self.installed), pylock=self.pip.pylock)

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Make a relocatable copy of the environment."""
        return _relocate(self.installed, prefix, self.lock, self.context, self.packages.variables)


@dataclass(eq=False)
class InstalledBuilder(Builder):
    """Copies an installed conda environment."""

    environment: Path
    context: BuildContext
    ignore_missing_files: bool

    @cached_property
    def lock(self) -> tuple[str, ...]:
        """The installed packages."""
        return existing.lock(self.environment)

    def install(self, prefix: Path) -> None:
        """Do nothing: the packages are installed, and `relocate` copies them."""

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Make a relocatable copy of the environment."""
        return _relocate(self.environment, prefix, self.lock, self.context, {}, self.ignore_missing_files)


def _into(prefix: Path) -> tuple[str | Path, ...]:
    return ("--break-system-packages", "--python", prefix / "bin" / "python")


def _check_python(records: Sequence[RepoDataRecord], minor: str) -> None:
    version = next((str(record.version) for record in records if record.name.normalized == "python"), None)
    if version is None:
        raise BuildError("The lock has no python, which executors need. Lock an environment with python in it.")
    found = ".".join(version.split(".")[:2])
    if found != minor:
        raise BuildError(
            f"The lock has Python {version}, not {minor} (python=..., by default the worker's version). Executors must"
            " run the same minor version as the worker that pickles the UDFs. Set"
            f' python="{found}" and run the task on a worker with it, or create a lock with Python {minor}.'
        )


def _lock_line(record: RepoDataRecord) -> str:
    exact = f"{record.name.normalized}={record.version}={record.build}"
    if record.sha256:
        return f"{exact} sha256:{record.sha256.hex()}"
    return f"{exact} md5:{record.md5.hex()}" if record.md5 else exact


def _relocate(
    environment: Path,
    prefix: Path,
    lock: tuple[str, ...],
    context: BuildContext,
    variables: Mapping[str, str],
    ignore_missing_files: bool = False,
) -> BuiltPrefix:
    version = existing.python_version(environment)
    context.report("relocate", f"Python {version}")
    # Before the copy, in whose files the path is a placeholder.
    env_vars = activation.env_vars(environment, variables, context)
    script = conda_pack.relocate_prefix(
        environment,
        prefix,
        ignore_missing_files=ignore_missing_files,
        on_line=lambda line: context.report("relocate", line),
    )
    return BuiltPrefix(
        python=version,
        interpreter="bin/python",
        packages=site_packages.installed(prefix),
        lock=lock,
        post_unpack_script=script,
        env_vars=env_vars,
    )
