"""The steps of building a venv: resolve the requirements, install the packages, add the interpreter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments import input_files
from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.context import BuildContext, Builder, BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter, remove_venv_files
from airflow_provider_sparkdeps.environments.prefix.shebangs import relocate_script, relocate_scripts
from airflow_provider_sparkdeps.environments.pythons import BasePython, find_python
from airflow_provider_sparkdeps.environments.requirements.local_projects import (
    Wheel,
    build_wheels,
    with_path_dependencies,
)
from airflow_provider_sparkdeps.environments.requirements.lock_files import read_pylock, select_packages
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary
from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.platforms import current_platform

# uv's names of the platforms for which it can select wheels.
_UV_PLATFORMS = {
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "darwin-arm64": "aarch64-apple-darwin",
    "darwin-x86_64": "x86_64-apple-darwin",
}


@dataclass(frozen=True)
class Resolution:
    """The exact packages that requirements were resolved to.

    :param lock: for the manifest: one line for each package, sorted, without paths.
    :param lines: for uv: the packages that do not come from a lock file.
    :param options: about indexes.
    :param pylock: contents of a pylock.toml with the packages that come from a lock file.
    :param wheels: of this machine.
    """

    lock: tuple[str, ...]
    lines: tuple[str, ...]
    options: tuple[str, ...] = ()
    pylock: str = ""
    wheels: tuple[Wheel, ...] = ()


@dataclass(eq=False)
class UvBuilder(Builder):
    """Resolves requirements with uv and installs them into a venv; what happens then is up to the subclass.

    :param environment: whose Python, platform and index are used.
    :param wanted: the requirements or lock file.
    :param scratch: a directory for intermediate files.
    :param context: of the build.
    """

    environment: Environment
    wanted: RequirementSet
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
            named = ", ".join(self.wanted.requirements) or "the locked packages"
            raise BuildError(
                f"None of {named} applies to Python {self.base.minor} on {platform}: their markers exclude it."
                " Correct the markers, python or platform."
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
        what: dict[str, Any] = {"options": resolution.options, "pylock": resolution.pylock}
        if self.environment.platform != current_platform():
            target = prefix / "lib" / f"python{self.base.minor}" / "site-packages"
            target.mkdir(parents=True)
            self.uv.install_for_platform(resolution.lines, target=target, python=self.base.executable, **what)
            _move_scripts(target, prefix / "bin")
        else:
            self.uv.install(resolution.lines, prefix=prefix, python=self.base.executable, **what)
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


def resolve(wanted: RequirementSet, *, uv: Uv, base: BasePython, platform: str) -> Resolution:
    """Resolve requirements to exact packages; local projects are built as wheels first.

    :return: without packages if no marker applies.
    :raises BuildError: if there is no solution, or a project can't be built; with the output of the tool.
    """
    pylock = ""
    lock: tuple[str, ...] = ()
    projects = wanted.local_projects
    if wanted.uv_project:
        exported = uv.export(wanted.uv_project, extras=wanted.extras, groups=wanted.groups, python=base.executable)
        wanted = read_pylock(exported, extras=(), groups=())
    if wanted.pylock:
        chosen = select_packages(wanted, marker_environment=marker_environment(base, platform))
        pylock, lock, projects = chosen.to_toml() if chosen.packages else "", chosen.lock, chosen.local_projects
    wheels = build_wheels(with_path_dependencies(projects), uv=uv, scratch=uv.scratch, python=base.executable)
    if pylock or wanted.pylock:
        lines = tuple(wheel.requirement for wheel in wheels)
    else:
        asked = [*wanted.requirements, *(wheel.requirement for wheel in wheels)]
        lines = uv.resolve(asked, python=base.executable, constraints=wanted.constraints, options=wanted.options)
        lines = _with_hashes(lines, wanted, wheels)
    by_url = {wheel.path.as_uri(): wheel for wheel in wheels}
    used = []
    for line in lines:
        wheel = by_url.get(_url(line))
        used += [wheel] if wheel else []
        lock = (*lock, wheel.lock_line if wheel else line)
    return Resolution(tuple(sorted(lock)), lines, wanted.options, pylock, tuple(used))


def _url(line: str) -> str:
    return re.split(r"\s", line.partition(" @ ")[2].strip())[0]


def _with_hashes(lines: Sequence[str], wanted: RequirementSet, wheels: Sequence[Wheel]) -> tuple[str, ...]:
    """Return resolved lines with the hashes that the requirements have: then every package needs one."""
    hashed = [line.split(" --hash=") for line in (*wanted.requirements, *wanted.constraints) if " --hash=" in line]
    if not hashed:
        return tuple(lines)
    known: dict[str, list[str]] = {}
    for head, *hashes in hashed:
        name = re.sub(r"\[.*?\]", "", head.split(";")[0]).strip()
        known.setdefault(name, []).extend(hashes)
    for wheel in wheels:
        known[wheel.requirement.split(";")[0].strip()] = [f"sha256:{input_files.sha256_of(wheel.path)}"]
    return tuple(
        " ".join([line, *(f"--hash={each}" for each in sorted(set(known.get(line.split(";")[0].strip(), []))))])
        for line in lines
    )


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


def marker_environment(base: BasePython, platform: str) -> dict[str, str]:
    """Return the values of PEP 508's markers for an interpreter on a platform."""
    from packaging.markers import default_environment

    system, _, machine = platform.partition("-")
    return {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": base.minor,
        "python_full_version": base.version,
        "implementation_version": base.version,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "platform_machine": machine,
    }
