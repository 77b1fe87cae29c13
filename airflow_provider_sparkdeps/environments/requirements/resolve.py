"""Resolves what uv is given to read to exact packages, in a copy of the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sparkdeps.environments.pythons import BasePython
from airflow_provider_sparkdeps.environments.requirements.input_tree import copy_of, project_digest
from airflow_provider_sparkdeps.environments.requirements.lock_files import LocalPackage, select_packages
from airflow_provider_sparkdeps.environments.requirements.requirements_txt import text_name
from airflow_provider_sparkdeps.environments.requirements.uv_inputs import UvInputs, check_python
from airflow_provider_sparkdeps.environments.uv import Uv, is_set
from airflow_provider_sparkdeps.exceptions import BuildError


@dataclass(frozen=True)
class Wheel:
    """A wheel that was built from a local project, or is a local file.

    :param name: canonical name.
    :param version: of the project.
    :param path: of the wheel.
    :param digest: sha256 of what it was built from.
    """

    name: str
    version: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Resolution:
    """The exact packages that requirements were resolved to.

    :param lock: for the manifest: one line for each package, sorted, without paths.
    :param directory: where uv starts, whose settings it reads.
    :param pylock: contents of a pylock.toml with the packages that are not local; empty if there are none.
    :param wheels: of local projects.
    :param as_written: a requirements.txt whose hashes uv checks when it installs it.
    :param options: of uv, for the installation.
    """

    lock: tuple[str, ...]
    directory: Path | None = None
    pylock: str = ""
    wheels: tuple[Wheel, ...] = ()
    as_written: Path | None = None
    options: tuple[str | Path, ...] = ()


def resolve(
    wanted: UvInputs, *, uv: Uv, base: BasePython, platform: str, installed: Mapping[str, str] | None = None
) -> Resolution:
    """Resolve requirements to exact packages; local projects are built as wheels.

    :param installed: version of each package that is installed already, and keeps its version.
    :return: without packages if no marker applies.
    :raises BuildError: if there is no solution, or a project can't be built; with the output of the tool.
    """
    if wanted.form not in ("requirements", "pylock") and "UV_CONFIG_FILE" in os.environ:
        raise BuildError(
            f"UV_CONFIG_FILE is set on this worker, with which uv ignores the settings in {wanted.file}. Unset it, and"
            " write the settings of the worker to ~/.config/uv/uv.toml."
        )
    has_lock = wanted.form == "script" and wanted.file.with_name(f"{wanted.file.name}.lock").is_file()
    has_hashes = wanted.form in ("lock", "pylock") or "--require-hashes" in wanted.options or has_lock
    if is_set("UV_REQUIRE_HASHES") and not has_hashes:
        raise BuildError(
            "UV_REQUIRE_HASHES is set on this worker, but the requirements have no hashes. Use a lock or a"
            " requirements.txt with hashes, or unset it."
        )
    root = uv.scratch / "files"
    for tree in wanted.trees:
        tree.copy_to(root)
    file, directory = copy_of(wanted.file, root), copy_of(wanted.directory, root)
    directory.mkdir(parents=True, exist_ok=True)
    if wanted.form != "lock":  # uv checks it
        check_python(wanted.requires_python, [base.version], wanted.file)
    uv.shown_as[str(root)] = ""
    for number, (path, _, text) in enumerate(wanted.texts):
        uv.shown_as[str(uv.file(text_name(number), text.splitlines()))] = str(path)
    if wanted.texts:
        file = uv.scratch / text_name(0)
    options = [copy_of(each, root) if isinstance(each, Path) else each for each in wanted.options]
    for_install = options
    options = [each for each in options if each != "--require-hashes"]
    selected = {"extras": wanted.extras, "groups": wanted.groups}
    lock, indexes = file, dict[str, str]()
    if wanted.form == "script":
        arguments: list[str | Path] = ["--script", file, *(["--locked"] if has_lock else [])]
        lock = uv.export(directory, *arguments, python=base.executable, title=str(wanted.file))
    elif wanted.form == "lock":
        arguments = ["--locked", "--no-emit-project"]
        lock = uv.export(directory, *arguments, **selected, python=base.executable, title=str(wanted.file))
    elif wanted.form != "pylock":
        local = {name: path for tree in wanted.trees for name, path in tree.named.items()}
        limits = [f"{name} @ {copy_of(path, root).as_uri()}" for name, path in local.items()]
        limits += [f"{name}=={version}" for name, version in (installed or {}).items()]
        options += ["--constraints", uv.file("constraints.txt", limits)] if limits else []
        sources = [] if wanted.form == "groups" else [file]
        lock, indexes = uv.compile(directory, *sources, *options, **selected, python=base.executable)
    if wanted.form != "pylock":
        selected = {"extras": (), "groups": ()}
    chosen = select_packages(
        lock,
        **selected,
        environment=marker_environment(base, platform),
        without=(wanted.name, *(installed or ())),
        indexes=indexes,
        title=wanted.file.name if wanted.form == "pylock" else f"The lock of {wanted.file.name}",
    )
    outside = [each.path for each in chosen.local if not each.path.is_relative_to(root)]
    if outside:
        raise BuildError(f"{outside[0]} is not a file that the key depends on. Write its path relative to the file.")
    wheels = tuple(build_wheels(chosen.local, uv=uv, python=base.executable, directory=directory))
    lines = [*chosen.lock, *(f"{each.name}=={each.version} (sha256 {each.digest})" for each in wheels)]
    as_written = file if "--require-hashes" in for_install else None
    for number, (_, _, text) in enumerate(wanted.texts if as_written else ()):
        # The contents of local projects are part of the key, and they have no hash.
        uv.file(text_name(number), [line for line in text.splitlines() if not line.startswith("./")])
    pylock = chosen.to_toml() if chosen.packages else ""
    return Resolution(tuple(sorted(lines)), directory, pylock, wheels, as_written, tuple(for_install))


def build_wheels(
    packages: Iterable[LocalPackage], *, uv: Uv, python: Path, directory: Path | None = None
) -> list[Wheel]:
    """Return the wheels of local projects and sdists, which may be written to; wheels are returned as they are.

    :param directory: where uv starts, whose settings it reads.
    :raises BuildError: if a build fails, with the output of the build backend; or if a file or its package is not the
        one that was locked.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    wheels = []
    for number, package in enumerate(packages):
        path = package.path
        for algorithm, expected in package.hashes.items():
            found = hashlib.new(algorithm, path.read_bytes()).hexdigest()
            if found != expected:
                raise BuildError(
                    f"{path.name} is not the file that was locked: its {algorithm} is {found} instead of {expected}."
                    " Restore it, or lock again."
                )
        digest = project_digest(path)
        if path.suffix != ".whl":
            target = uv.scratch / f"wheel-{number}"
            uv.build_wheel(path, target, python=python, title=path.name, directory=directory)
            built = list(target.glob("*.whl"))
            if len(built) != 1:
                raise BuildError(
                    f"The build of {path.name} made {len(built)} wheels instead of one. Correct the project."
                )
            path = built[0]
        name, version, _, _ = parse_wheel_filename(path.name)
        if canonicalize_name(name) != package.name or package.version not in ("", str(version)):
            wanted = f"{package.name} {package.version}".strip()
            raise BuildError(f"{package.path.name} is {name} {version}, and not {wanted}. Correct it, or lock again.")
        wheels.append(Wheel(package.name, str(version), path, digest))
    return wheels


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
