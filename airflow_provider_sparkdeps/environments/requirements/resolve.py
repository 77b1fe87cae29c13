"""Resolves what uv is given to read to exact packages, in a copy of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sparkdeps.environments.pythons import BasePython
from airflow_provider_sparkdeps.environments.requirements.input_tree import copy_of, project_digest
from airflow_provider_sparkdeps.environments.requirements.lock_files import select_packages
from airflow_provider_sparkdeps.environments.requirements.requirements_txt import for_uv
from airflow_provider_sparkdeps.environments.requirements.uv_inputs import UvInputs, check_python
from airflow_provider_sparkdeps.environments.uv import Uv
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
    :param pylock: contents of a pylock.toml with the packages that are not local; empty if there are none.
    :param wheels: of local projects.
    :param as_written: a requirements.txt whose hashes uv checks when it installs it, and where uv starts.
    :param options: of uv, for the installation.
    """

    lock: tuple[str, ...]
    pylock: str = ""
    wheels: tuple[Wheel, ...] = ()
    as_written: tuple[Path, Path] | None = None
    options: tuple[str | Path, ...] = ()


def resolve(
    wanted: UvInputs, *, uv: Uv, base: BasePython, platform: str, installed: Mapping[str, str] | None = None
) -> Resolution:
    """Resolve requirements to exact packages; local projects are built as wheels.

    :param installed: version of each package that is installed already, and keeps its version.
    :return: without packages if no marker applies.
    :raises BuildError: if there is no solution, or a project can't be built; with the output of the tool.
    """
    root = uv.scratch / "files"
    for tree in wanted.trees:
        tree.copy_to(root)
    file, directory = copy_of(wanted.file, root), copy_of(wanted.directory, root)
    directory.mkdir(parents=True, exist_ok=True)
    if wanted.form != "lock":  # uv checks it
        check_python(wanted.requires_python, [base.version], wanted.file)
    if wanted.requirements:
        lines = [for_uv(line, wanted.directory) for line in wanted.requirements]
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    options = [copy_of(each, root) if isinstance(each, Path) else each for each in wanted.options]
    for_install = options
    options = [each for each in options if each != "--require-hashes"]
    selected = {"extras": wanted.extras, "groups": wanted.groups}
    lock, indexes = file, dict[str, str]()
    if wanted.form == "script":
        locked = ["--locked"] if file.with_name(f"{file.name}.lock").is_file() else []
        lock = uv.export(directory, "--script", file, *locked, python=base.executable)
    elif wanted.form in ("lock", "unlocked"):
        locked = ["--locked"] if wanted.form == "lock" else []
        lock = uv.export(directory, *locked, "--no-emit-project", **selected, python=base.executable)
    elif wanted.form != "pylock":
        if wanted.name:
            # For what depends on the project itself, which must not be a package of that name on an index.
            own = uv.file("overrides.txt", [f"{wanted.name} @ {file.parent.as_uri()}"])
            options = [*options, "--overrides", own]
        if installed:
            pins = [f"{name}=={version}" for name, version in installed.items()]
            options = [*options, "--constraints", uv.file("constraints.txt", pins)]
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
    )
    outside = [path for path in chosen.local if not path.is_relative_to(root)]
    if outside:
        raise BuildError(f"{outside[0]} is not a file that the key depends on. Write its path relative to the file.")
    wheels = tuple(build_wheels(chosen.local, uv=uv, python=base.executable))
    lines = [*chosen.lock, *(f"{each.name}=={each.version} (sha256 {each.digest})" for each in wheels)]
    as_written = (file, directory) if "--require-hashes" in for_install else None
    pylock = chosen.to_toml() if chosen.packages else ""
    return Resolution(tuple(sorted(lines)), pylock, wheels, as_written, tuple(for_install))


def build_wheels(projects: Iterable[Path], *, uv: Uv, python: Path) -> list[Wheel]:
    """Return the wheels of local projects and sdists, which may be written to; wheels are returned as they are.

    :raises BuildError: if a build fails; with the output of the build backend.
    """
    from packaging.utils import canonicalize_name, parse_wheel_filename

    wheels = []
    for number, project in enumerate(projects):
        digest, path = project_digest(project), project
        if path.suffix != ".whl":
            target = uv.scratch / f"wheel-{number}"
            uv.build_wheel(project, target, python=python, title=path.name)
            built = list(target.glob("*.whl"))
            if len(built) != 1:
                raise BuildError(
                    f"The build of {path.name} made {len(built)} wheels instead of one. Correct the project."
                )
            path = built[0]
        name, version, _, _ = parse_wheel_filename(path.name)
        wheels.append(Wheel(canonicalize_name(name), str(version), path, digest))
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
