"""The steps of building a venv: resolve the requirements, install the packages, add the interpreter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter, remove_venv_files
from airflow_provider_sparkdeps.environments.prefix.shebangs import relocate_script, relocate_scripts
from airflow_provider_sparkdeps.environments.pythons import BasePython, find_python
from airflow_provider_sparkdeps.environments.requirements.resolve import Resolution, resolve
from airflow_provider_sparkdeps.environments.requirements.uv_inputs import UvInputs
from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary
from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.platforms import current_platform
from airflow_provider_sparkdeps.utils.text import join_limited

# uv's names of the platforms for which it can select wheels.
_UV_PLATFORMS = {
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "darwin-arm64": "aarch64-apple-darwin",
    "darwin-x86_64": "x86_64-apple-darwin",
}


@dataclass(eq=False)
class UvBuilder(Builder):
    """Resolves requirements with uv and installs them into a venv; what happens then is up to the subclass.

    :param environment: whose Python, platform and index are used.
    :param wanted: the requirements or lock file.
    :param scratch: a directory for intermediate files.
    :param context: of the build.
    """

    environment: Environment
    wanted: UvInputs
    scratch: Path
    context: BuildContext

    @cached_property
    def uv(self) -> Uv:
        """uv, with the login and the platform of the environment."""
        conn_id = self.environment.index_conn_id
        login = self.context.login(conn_id) if conn_id else None
        options = _cross_platform_options(self.environment)
        return Uv(self.scratch, self.context, login=login, cross_platform=options)

    @cached_property
    def base(self) -> BasePython:
        """The interpreter that the environment is built on."""
        return find_python(self.environment.python_minor, uv=uv_binary(), deadline=self.context.deadline)

    @cached_property
    def resolution(self) -> Resolution:
        """The exact packages."""
        uv, platform = self.uv, self.environment.platform
        self.context.report("resolve", f"{self.environment.title}, on {self.base.executable}")
        resolution = resolve(self.wanted, uv=uv, base=self.base, platform=platform)
        if not resolution.lock:
            named = ", ".join(self.wanted.requirements) or f"what {self.wanted.file} says"
            raise BuildError(
                f"Nothing of {named} is to be installed for Python {self.base.minor} on {platform}: there are no"
                " dependencies in what is selected, or their markers exclude it. Correct the markers, extras, groups,"
                " python or platform."
            )
        return resolution

    @property
    def lock(self) -> tuple[str, ...]:
        """The exact packages, for the manifest."""
        return self.resolution.lock

    def install(self, prefix: Path) -> None:
        """Install the resolved packages."""
        resolution = self.resolution
        self.context.report("install", f"packages: {len(resolution.lock)}")
        python = self.base.executable
        is_foreign = self.environment.platform != current_platform()
        if is_foreign:
            target = prefix / "lib" / f"python{self.base.minor}" / "site-packages"
            target.mkdir(parents=True)
            where: list[str | Path] = ["--target", target, "--python", python]
        else:
            self.uv.create_venv(prefix, python=python)
            where = ["--python", prefix / "bin" / "python"]
        wheels = [wheel.path for wheel in resolution.wheels]
        self.uv.install(
            *where,
            *resolution.options,
            pylock=resolution.pylock,
            wheels=wheels,
            as_written=resolution.as_written,
            directory=resolution.directory,
        )
        if is_foreign:
            _move_scripts(target, prefix / "bin")
        _compare(site_packages.installed(prefix).keys(), resolution)
        site_packages.remove_install_metadata(prefix, [wheel.name for wheel in resolution.wheels])


@dataclass(eq=False)
class VenvBuilder(UvBuilder):
    """Builds a venv from requirements or a lock file."""

    bundle_python: bool
    slim_python: bool

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Remove what ties the venv to this machine, and add the interpreter."""
        return _relocate(self, prefix)


@dataclass(eq=False)
class VirtualenvBuilder(Builder):
    """Copies an existing virtualenv."""

    virtualenv: Virtualenv
    scratch: Path
    context: BuildContext
    bundle_python: bool
    slim_python: bool

    @cached_property
    def base(self) -> BasePython:
        """The interpreter that the virtualenv was created with."""
        return self.virtualenv.base(self.context.deadline)

    @cached_property
    def lock(self) -> tuple[str, ...]:
        """The installed distributions."""
        return self.virtualenv.lock()

    def install(self, prefix: Path) -> None:
        """Copy the virtualenv; its editable projects are installed as wheels."""
        self.context.report("install", f"{self.virtualenv.prefix}, on {self.base.executable}")
        self.virtualenv.copy_to(prefix, uv=Uv(self.scratch, self.context), base=self.base)

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Remove what ties the venv to this machine, and add the interpreter."""
        return _relocate(self, prefix)


def _compare(installed: Collection[str], resolution: Resolution) -> None:
    locked = {line.partition(" @ ")[0].partition("==")[0] for line in resolution.lock}
    different = sorted(locked ^ {*installed})
    if different and resolution.as_written:
        raise BuildError(
            f"{join_limited(different)} must be in the requirements with a hash: if one package has a hash, then all"
            " need one. Add the missing lines."
        )
    if different:
        raise BuildError(
            f"{join_limited(different)} should not differ between what was resolved and what uv has installed. If you"
            " can build it again with the same result, report it with your requirements."
        )


def _relocate(builder: VenvBuilder | VirtualenvBuilder, prefix: Path) -> BuiltPrefix:
    base, interpreter = builder.base, None
    remove_venv_files(prefix)
    relocate_scripts(prefix)
    if builder.bundle_python:
        builder.context.report("relocate", f"Python {base.version} of {base.prefix}")
        interpreter = bundle_interpreter(prefix, base, slim=builder.slim_python)
    packages = site_packages.installed(prefix)
    return BuiltPrefix(python=base.version, interpreter=interpreter, packages=packages, lock=builder.lock)


def _cross_platform_options(environment: Environment) -> list[str]:
    platform = environment.platform
    if platform == current_platform():
        return []
    if platform not in _UV_PLATFORMS:
        raise BuildError(
            f"uv can't select wheels for {platform}, only for {', '.join(_UV_PLATFORMS)}. Correct platform, or build on"
            " a worker of that platform."
        )
    return ["--python-platform", _UV_PLATFORMS[platform], "--python-version", environment.python_minor]


def _move_scripts(target: Path, bin_: Path) -> None:
    bin_.mkdir()
    (target / ".lock").unlink(missing_ok=True)
    if not (target / "bin").is_dir():
        return
    for script in sorted((target / "bin").iterdir()):
        relocate_script(script, bin_ / script.name)
    for info in target.glob("*.dist-info"):
        site_packages.remove_from_record(info, lambda path: path.startswith("bin/"))
    for script in (target / "bin").iterdir():
        script.unlink()
    (target / "bin").rmdir()
