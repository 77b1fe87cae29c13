"""The steps of building a conda environment: resolve with rattler and uv, install, and relocate with conda-pack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        """A prefix in which rattler has installed the conda packages."""
        prefix = self.scratch / "environment"
        self.rattler.install(self.records, prefix)
        return prefix

    @cached_property
    def pip_lock(self) -> list[str]:
        """The exact packages of pip. uv needs the installed conda packages to resolve them."""
        locked = self.locked.pip if self.locked else {}
        if not self.packages.pip and not locked:
            return []
        # A package of conda that pip overwrites would be broken: keep the versions of conda.
        from_conda = {name: version for name, version in site_packages.installed(self.installed).items() if version}
        if twice := sorted({canonicalize_name(name) for name in locked} & from_conda.keys()):
            raise BuildError(
                f"The lock has {', '.join(twice)} both as a conda package and as a package of pip. One would"
                " overwrite the other. Remove one of them, and lock again."
            )
        if not self.packages.pip:
            return sorted(locked.values())
        self.context.report("resolve", f"pip: {', '.join(self.packages.pip)}")
        constraints = [f"{name}=={version}" for name, version in from_conda.items()]
        wanted = [*self.packages.pip, *locked.values()]
        resolved = self.uv.resolve(wanted, python=self.installed / "bin/python", constraints=constraints)
        return [line for line in resolved if line.partition("==")[0].partition("[")[0] not in from_conda]

    @property
    def lock(self) -> tuple[str, ...]:
        """The exact packages, for the manifest."""
        return tuple(sorted([*map(_lock_line, self.records), *(f"pip:{line}" for line in self.pip_lock)]))

    def install(self, prefix: Path) -> None:
        """Install the packages into the scratch directory, from which `relocate` copies them to the prefix."""
        _ = self.installed
        if self.pip_lock:
            self.context.report("install", f"packages of pip: {len(self.pip_lock)}")
            self.uv.add(self.pip_lock, python=self.installed / "bin/python")

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
