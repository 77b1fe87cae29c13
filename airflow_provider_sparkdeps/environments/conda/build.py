"""The steps of building a conda environment: solve, install, and make the prefix relocatable."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.conda import conda_pack, existing, rattler
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix, Login
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.uv import Uv
from airflow_provider_sparkdeps.exceptions import BuildError

if TYPE_CHECKING:
    from rattler import RepoDataRecord


@dataclass(eq=False)
class CondaBuilder(Builder):
    """Builds a conda environment from specs or a lock, with requirements of pip on top.

    :param environment: whose Python, platform and index are used.
    :param dependencies: conda specs.
    :param channels: in the order of their priority.
    :param explicit: URLs of packages, instead of dependencies and channels.
    :param pip: requirements that uv installs on top.
    :param logins: of private channels.
    :param scratch: a directory for intermediate files.
    :param context: of the build.
    """

    environment: Environment
    dependencies: tuple[str, ...]
    channels: tuple[str, ...]
    explicit: tuple[str, ...]
    pip: tuple[str, ...]
    logins: tuple[Login, ...]
    scratch: Path
    context: BuildContext

    @cached_property
    def records(self) -> list[RepoDataRecord]:
        """The exact conda packages."""
        if self.explicit:
            records = rattler.records(self.explicit)
            if not any(record.name.normalized == "python" for record in records):
                raise BuildError("The lock has no python, which executors need. Lock an environment with python in it.")
            return records
        self.context.report("resolve", f"{self.environment.title}, from {', '.join(self.channels)}")
        return rattler.solve(
            [*self.dependencies, f"python {self.environment.python_minor}.*"],
            self.channels,
            platform=self.environment.platform,
            logins=self.logins,
            deadline=self.context.deadline,
            report=self.context.report,
        )

    @cached_property
    def installed(self) -> Path:
        """The directory with the conda packages, where they are not relocatable yet."""
        directory = self.scratch / "environment"
        rattler.install(
            self.records,
            directory,
            platform=self.environment.platform,
            logins=self.logins,
            deadline=self.context.deadline,
            report=self.context.report,
        )
        version, minor = conda_pack.python_version(directory), self.environment.python_minor
        if not version.startswith(f"{minor}."):
            raise BuildError(
                f"The lock has Python {version}, but Python {minor} pickles the UDFs. Set"
                f' python="{".".join(version.split(".")[:2])}" and run the task on that Python, or lock another one.'
            )
        return directory

    @cached_property
    def uv(self) -> Uv:
        """uv, with the login of the private index."""
        conn_id = self.environment.index_conn_id
        return Uv(self.scratch, self.context, login=self.context.login(conn_id) if conn_id else None)

    @cached_property
    def pip_lock(self) -> tuple[str, ...]:
        """The exact packages of pip."""
        if not self.pip:
            return ()
        # Packages of conda keep their versions: two packages of one name would overwrite each other's files.
        from_conda = {name: version for name, version in site_packages.installed(self.installed).items() if version}
        self.context.report("resolve", f"pip: {', '.join(self.pip)}")
        lines = self.uv.resolve(
            self.pip,
            python=self.installed / "bin" / "python",
            constraints=[f"{name}=={version}" for name, version in from_conda.items()],
        )
        return tuple(line for line in lines if line.partition("==")[0].partition("[")[0] not in from_conda)

    @cached_property
    def lock(self) -> tuple[str, ...]:
        """The exact packages of conda and of pip."""
        return tuple(sorted([*map(_locked, self.records), *(f"pip:{line}" for line in self.pip_lock)]))

    def install(self, prefix: Path) -> None:
        """Install the packages into a directory of their own, from which `relocate` fills the prefix."""
        if lines := self.pip_lock:
            self.context.report("install", f"packages of pip: {len(lines)}")
            self.uv.add(lines, python=self.installed / "bin" / "python")

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Fill the prefix."""
        return _relocate(self.installed, prefix, self.lock, self.context)


@dataclass(eq=False)
class InstalledCondaBuilder(Builder):
    """Packs an installed environment.

    :param environment: its directory.
    :param contents: what `describe` found in it when its key was taken.
    :param ignore_missing_files: whether files of conda's packages may be missing.
    :param context: of the build.
    """

    environment: Path
    contents: str | None
    ignore_missing_files: bool
    context: BuildContext

    @cached_property
    def lock(self) -> tuple[str, ...]:
        """The installed packages."""
        if existing.describe(self.environment)[1] != self.contents:
            raise BuildError(
                f"{self.environment} has changed since it was described: packages were added or removed. Describe it"
                " again with from_prefix."
            )
        return _lock_of_installed(self.environment)

    def install(self, prefix: Path) -> None:
        """Nothing has to be installed."""

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Fill the prefix."""
        ignore = self.ignore_missing_files
        return _relocate(self.environment, prefix, self.lock, self.context, ignore_missing_files=ignore)


def _relocate(
    environment: Path,
    prefix: Path,
    lock: tuple[str, ...],
    context: BuildContext,
    *,
    ignore_missing_files: bool = False,
) -> BuiltPrefix:
    version = conda_pack.python_version(environment)
    context.report("relocate", f"Python {version} of {environment}")
    post_unpack_script = conda_pack.make_relocatable(
        environment,
        prefix,
        ignore_missing_files=ignore_missing_files,
        say=lambda text: context.report("relocate", text),
    )
    return BuiltPrefix(
        python=version,
        interpreter="bin/python",
        packages=site_packages.installed(prefix),
        lock=lock,
        post_unpack_script=post_unpack_script,
    )


def _locked(record: RepoDataRecord) -> str:
    exact = f"{record.name.normalized}={record.version}={record.build}"
    if record.sha256:
        return f"{exact} sha256:{record.sha256.hex()}"
    return f"{exact} md5:{record.md5.hex()}" if record.md5 else exact


def _lock_of_installed(environment: Path) -> tuple[str, ...]:
    """What conda's own records say, and pip's for what is not conda's."""
    import json

    found = []
    for path in (environment / "conda-meta").glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        exact = f"{facts['name']}={facts['version']}={facts['build']}"
        digest = next((f" {each}:{facts[each]}" for each in ("sha256", "md5") if facts.get(each)), "")
        found.append(exact + digest)
    of_pip = []
    for installer in environment.glob("lib/python3.*/site-packages/*.dist-info/INSTALLER"):
        if installer.read_text(encoding="utf-8").strip() not in ("conda", ""):
            name, _, version = installer.parent.name.removesuffix(".dist-info").partition("-")
            of_pip.append(f"pip:{name.replace('_', '-').lower()}=={version}")
    return tuple(sorted([*found, *of_pip]))
