"""The steps of building a venv: from what is wanted to exact packages, and on to a prefix."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments import input_files
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter, remove_venv_files
from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Login, Report, current_platform
from airflow_provider_sparkdeps.environments.venv.existing import Virtualenv
from airflow_provider_sparkdeps.environments.requirements.local_projects import Wheel, build_wheels, with_path_dependencies
from airflow_provider_sparkdeps.environments.requirements.lock_files import choose, read_pylock
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.environments.pythons import BasePython, find_python
from airflow_provider_sparkdeps.environments.prefix.shebangs import relocate_script
from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import BuildError

# What uv calls the machines that it knows wheels of, by Python's name for them.
_TRIPLES = {
    "linux-x86_64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "darwin-arm64": "aarch64-apple-darwin",
    "darwin-x86_64": "x86_64-apple-darwin",
}


@dataclass(frozen=True)
class Resolution:
    """The exact packages that a wish comes to.

    :param lock: for the manifest: one line for each, sorted, and without paths.
    :param lines: for uv, of those that come from indexes, URLs and this machine.
    :param options: about indexes.
    :param pylock: the text of a pylock.toml with those that a lock file names.
    :param wheels: of this machine.
    """

    lock: tuple[str, ...]
    lines: tuple[str, ...]
    options: tuple[str, ...] = ()
    pylock: str = ""
    wheels: tuple[Wheel, ...] = ()


def foreign_options(platform: str, minor: str) -> list[str]:
    """Return uv's options for building for another platform.

    :raises BuildError: when it can't.
    """
    if platform not in _TRIPLES:
        raise BuildError(
            f"uv knows no wheels for {platform}, but for {', '.join(_TRIPLES)}. Correct platform=, or build on a"
            " worker of that platform."
        )
    return ["--python-platform", _TRIPLES[platform], "--python-version", minor]


@dataclass(frozen=True)
class Order:
    """What a build must keep to.

    :param title: of the environment, for reports and errors.
    :param minor: of its Python.
    :param platform: that it is for.
    :param timeout: seconds that it may take.
    :param login: of the private index, if there is one.
    """

    title: str
    minor: str
    platform: str
    timeout: float
    login: Login | None = None


@contextlib.contextmanager
def workshop(order: Order, *, report: Report, parent: Path | None = None) -> Iterator[Workshop]:
    """Get ready to build: with a deadline, room to work in, and uv.

    :param report: told about each phase and its progress.
    :param parent: where to work; by default the system's temporary directory.
    """
    with tempfile.TemporaryDirectory(prefix="uv-", dir=parent) as scratch:
        yield Workshop(order, Path(os.path.realpath(scratch)), report)


class Workshop:
    """The steps of one build, with what they share."""

    def __init__(self, order: Order, scratch: Path, report: Report) -> None:
        self._order = order
        self._report = report
        self._phase = "resolve"
        self._deadline = Deadline(order.timeout, f"Building {order.title}")
        self._foreign = foreign_options(order.platform, order.minor) if order.platform != current_platform() else []
        self._uv = Uv(
            scratch,
            deadline=self._deadline,
            on_line=lambda line: report(self._phase, line),
            login=order.login,
            foreign=self._foreign,
        )
        self._base: BasePython | None = None

    def resolve(self, wanted: RequirementSet) -> Resolution:
        """Find exact packages that meet a wish.

        :raises BuildError: with the resolver's own words; when nothing applies.
        """
        self._base = find_python(self._order.minor, uv=uv_binary(), deadline=self._deadline)
        self._report("resolve", f"{self._order.title}, on {self._base.executable}")
        resolution = resolve(wanted, uv=self._uv, base=self._base, platform=self._order.platform)
        if not resolution.lock:
            named = ", ".join(wanted.requirements) or "the packages that are locked"
            raise BuildError(
                f"None of {named} applies to Python {self._base.minor} on {self._order.platform}:"
                " their markers rule it out."
            )
        return resolution

    def install(self, wanted: RequirementSet, prefix: Path) -> tuple[str, ...]:
        """Make a prefix of what is wanted; return its lock.

        :raises BuildError: with uv's own words.
        """
        resolution = self.resolve(wanted)
        self._phase = "install"
        self._report("install", f"packages: {len(resolution.lock)}")
        install(resolution, prefix, uv=self._uv, base=self._python, foreign=bool(self._foreign))
        return resolution.lock

    def copy(self, existing: Virtualenv, prefix: Path) -> tuple[str, ...]:
        """Make a prefix of a virtualenv; return its lock.

        :raises BuildError: when it can't be packed.
        """
        self._base = existing.base(self._deadline)
        self._phase = "install"
        self._report("install", f"{self._order.title}, on {self._base.executable}")
        existing.copy_to(prefix, uv=self._uv, base=self._base)
        return existing.lock()

    def finish(self, prefix: Path, lock: tuple[str, ...], *, bundle_python: bool) -> BuiltPrefix:
        """Take out what ties a prefix to this machine, and add the interpreter.

        :raises BuildError: when that can't be made relocatable.
        """
        base = self._python
        remove_venv_files(prefix)
        bundled = None
        if bundle_python:
            self._report("relocate", f"Python {base.version} of {base.prefix}")
            bundled = bundle_interpreter(prefix, base)
        packages = site_packages.installed(prefix)
        return BuiltPrefix(python=base.version, interpreter=bundled, packages=packages, lock=lock)

    @property
    def _python(self) -> BasePython:
        assert self._base is not None  # noqa: S101 - the first step of each build finds it
        return self._base


def resolve(wanted: RequirementSet, *, uv: Uv, base: BasePython, platform: str) -> Resolution:
    """Find exact packages that meet a wish; build those wheels that projects of this machine become.

    :raises BuildError: with the words of the resolver or of a build backend; with no packages, if none apply.
    """
    pylock = ""
    lock: tuple[str, ...] = ()
    locals_ = wanted.locals
    if wanted.uv_project:
        exported = uv.export(wanted.uv_project, extras=wanted.extras, groups=wanted.groups, python=base.executable)
        wanted = read_pylock(exported, extras=(), groups=())
    if wanted.pylock:
        chosen = choose(wanted, marker_environment=marker_environment(base, platform))
        pylock, lock, locals_ = chosen.to_toml() if chosen.packages else "", chosen.lock, chosen.locals
    wheels = build_wheels(with_path_dependencies(locals_), uv=uv, scratch=uv.scratch, python=base.executable)
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
        lock = (*lock, wheel.locked if wheel else line)
    return Resolution(tuple(sorted(lock)), lines, wanted.options, pylock, tuple(used))


def _url(line: str) -> str:
    return re.split(r"\s", line.partition(" @ ")[2].strip())[0]


def _with_hashes(lines: Sequence[str], wanted: RequirementSet, wheels: Sequence[Wheel]) -> tuple[str, ...]:
    """Return resolved lines with the hashes that were wished for: then every package needs one."""
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


def install(resolution: Resolution, prefix: Path, *, uv: Uv, base: BasePython, foreign: bool) -> None:
    """Install exact packages into a prefix.

    :param foreign: whether they are another platform's; the prefix then holds no interpreter at all.
    :raises BuildError: with uv's own words.
    """
    what: dict[str, Any] = {"options": resolution.options, "pylock": resolution.pylock, "python": base.executable}
    if foreign:
        target = prefix / "lib" / f"python{base.minor}" / "site-packages"
        target.mkdir(parents=True)
        uv.install_foreign(resolution.lines, target=target, **what)
        _move_scripts(target, prefix / "bin")
    else:
        uv.install(resolution.lines, prefix=prefix, **what)
    site_packages.remove_install_metadata(prefix, [wheel.name for wheel in resolution.wheels])


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
