"""What uv is given to read: requirements of a list, or a file of requirements, a project, a script or a lock."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from airflow_provider_sparkdeps.environments.input_files import read_text, read_toml
from airflow_provider_sparkdeps.environments.requirements import pep508
from airflow_provider_sparkdeps.environments.requirements.input_tree import (
    InputTree,
    check_strings,
    is_installable,
)
from airflow_provider_sparkdeps.environments.requirements.requirements_txt import RequirementsFiles, for_uv
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

# Where uv starts to read requirements, so that it finds no settings of a project.
NOWHERE = Path("/")


@dataclass(frozen=True)
class UvInputs:
    """What uv is given to read, at its original paths.

    :param form: how uv reads it: `requirements`, a `project` and its `groups` alone are resolved; a `lock` and a
        `script` are exported; and a `pylock` is installed as it is.
    :param file: that is read.
    :param directory: where uv starts.
    :param trees: of all local files.
    :param requirements: normalized, if they come from a list and not from a file.
    :param texts: of the requirements files, as written and as uv reads them; see `RequirementsFiles.texts`.
    :param options: of uv, which correspond to options in the file; absolute paths are those of directories in a tree.
    :param extras: to install.
    :param groups: dependency groups to install.
    :param name: of the project in the file, which is not installed.
    :param requires_python: of the project in the file.
    """

    form: Literal["requirements", "project", "groups", "lock", "script", "pylock"]
    file: Path
    directory: Path
    trees: tuple[InputTree, ...] = ()
    requirements: tuple[str, ...] = ()
    texts: tuple[tuple[Path, str, str], ...] = ()
    options: tuple[str | Path, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    name: str = ""
    requires_python: str = ""

    def inputs(self) -> dict[str, Any]:
        """Return what the key depends on, as JSON-compatible data, without empty values.

        :raises InvalidArgumentError: if a file can't be read.
        """
        here = self.file.parent
        options = [each if isinstance(each, str) else os.path.relpath(each, here) for each in self.options]
        everything: dict[str, Any] = {"form": self.form, "options": options}
        everything |= {"extras": list(self.extras), "groups": list(self.groups)}
        digests = [tree.digest() for tree in self.trees]
        if self.requirements:
            local = [line for line in self.requirements if pep508.is_local(line)]
            everything["requirements"] = [line for line in self.requirements if line not in local]
            # The name of a wheel counts, since it contains the platform; any other path does not.
            lines = [
                (Path(path).name if path.endswith(".whl") else "") + rest
                for path, rest in map(pep508.split_path, local)
            ]
            everything["locals"] = sorted(map(list, zip(lines, digests, strict=True)))
        else:
            everything |= {"files": digests, "texts": [written for _, written, _ in self.texts]}
        return {name: value for name, value in everything.items() if value}


def from_list(requirements: Iterable[str], base: Path) -> UvInputs:
    """Return normalized requirements as inputs.

    :param base: the directory that relative paths start from.
    :raises InvalidArgumentError: if a local project can't be installed.
    """
    requirements = tuple(requirements)
    trees = []
    for line in filter(pep508.is_local, requirements):
        path = absolute(pep508.split_path(line)[0], base)
        tree = InputTree(path if path.is_dir() else path.parent)
        tree.add_local(path)
        trees.append(tree)
    text = "".join(f"{for_uv(line, base)}\n" for line in requirements)
    texts = ((Path("requirements"), "", text),)
    return UvInputs("requirements", base / "requirements.in", NOWHERE, tuple(trees), requirements, texts)


def from_requirements_txt(path: Path, base: Path) -> UvInputs:
    """Return a requirements.txt as inputs.

    :param base: the directory that the environment starts from. Local paths are relative to it, as with pip, or to the
        directory of the file.
    :raises InvalidArgumentError: if a file can't be read, or has something that uv does not read.
    """
    files = RequirementsFiles()
    files.read(path)
    if not files.requirements:
        raise InvalidArgumentError(f"{path} has no requirements. Add at least one, such as 'pandas<3'.")
    local = [pep508.split_path(line)[0] for line in files.requirements if pep508.is_local(line)]
    starts = [
        place
        for place in dict.fromkeys((base, path.parent))
        if all(is_installable(absolute(each, place)) for each in local)
    ]
    if len(starts) > 1 and not all(Path(each).is_absolute() for each in local):
        raise InvalidArgumentError(
            f"{path} names {local[0]!r}, which exists relative to {starts[0]} (as pip reads it) and to {starts[1]}."
            f" Write a path that exists only once, or set base_dir to one of them."
        )
    directory = starts[0] if starts else base
    tree = InputTree(path.parent, path)
    for each in local:
        tree.add_local(absolute(each, directory))
    for folder in files.options:
        if isinstance(folder, Path):
            tree.add_directory(folder)
    texts = files.texts(directory)
    return UvInputs("requirements", path, NOWHERE, (tree,), texts=texts, options=tuple(files.options))


def from_project(path: Path, *, extras: Sequence[str], groups: Sequence[str], python: str) -> UvInputs:
    """Return a pyproject.toml as inputs, or the uv.lock of its project or workspace.

    :param python: minor version of Python that it is installed for.
    :raises InvalidArgumentError: if a file can't be read, or the project excludes this Python.
    """
    folder = path.parent
    tree = InputTree(folder)
    read_toml(path)
    data = tree.add_project(folder)
    lock = tree.add_workspace(folder)
    project = data.get("project", {})
    name = project.get("name") or data.get("tool", {}).get("poetry", {}).get("name", "")
    requires = project.get("requires-python", "")
    settings = data.get("tool", {}).get("uv", {})
    default = settings.get("default-groups", [])
    groups = sorted({*groups, *(data.get("dependency-groups", ()) if default == "all" else default)})
    of_groups = settings.get("dependency-groups", {})
    limits = [requires, *(of_groups.get(group, {}).get("requires-python", "") for group in groups)]
    requires = ",".join(filter(None, map(str, limits)))
    check_python(requires, [f"{python}.{patch}" for patch in range(60)], path)
    for tool in ("poetry", "pdm"):
        if data.get("tool", {}).get(tool, {}).get("source"):
            raise InvalidArgumentError(
                f"{path} has indexes in [[tool.{tool}.source]], which uv does not read. Write [[tool.uv.index]], or"
                " pass index_conn_id."
            )
    has_metadata = project or "build-system" in data or name or (folder / "setup.py").is_file()
    if not lock and not has_metadata and not groups:
        raise InvalidArgumentError(f"{path} has no [project] table. Add one, or select groups=[...] of its groups.")
    listed = project.get("dependencies") or project.get("dynamic") or not project
    if not (lock or extras or groups or listed):
        raise InvalidArgumentError(
            f"{path} has no dependencies. Add them to [project] dependencies, or select extras= or groups=."
        )
    if groups and has_metadata and not (name or lock):
        raise InvalidArgumentError(
            f"{path} does not say the name of its project, which its groups may contain. Write it into [project], or"
            " leave groups out."
        )
    form: Any = "lock" if lock else "project" if has_metadata else "groups"
    return UvInputs(
        form,
        path,
        folder,
        (tree,),
        extras=tuple(extras),
        groups=tuple(groups),
        name=name,
        requires_python=requires,
    )


def from_script(path: Path, base: Path) -> UvInputs:
    """Return the inline metadata of a script (PEP 723) as inputs, or its lock (`uv lock --script`).

    :param base: not used: local paths are relative to the script.
    :raises InvalidArgumentError: if it can't be read, or has no metadata.
    """
    import tomllib

    blocks = list(_inline_metadata(read_text(path)))
    if len(blocks) != 1:
        raise InvalidArgumentError(
            f"{path} has {len(blocks) or 'no'} blocks of inline metadata. Write one that starts with `# /// script` and"
            " ends with `# ///` (PEP 723), or pass its requirements as a list."
        )
    try:
        data = tomllib.loads(blocks[0])
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgumentError(f"The inline metadata of {path} is not TOML: {error}. Correct it.") from error
    if not data.get("dependencies"):
        raise InvalidArgumentError(f"The inline metadata of {path} has no dependencies. Add `dependencies = [...]`.")
    check_strings(data, path)
    tree = InputTree(path.parent, path)
    tree.add_sources(path.parent, data.get("tool", {}).get("uv", {}))
    tree.add(path, key=data)
    lock = path.with_name(f"{path.name}.lock")
    if lock.is_file():
        locked = read_toml(lock)
        tree.add(lock, key=locked)
        check_strings(locked, lock)
    requires = str(data.get("requires-python", ""))
    return UvInputs("script", path, path.parent, (tree,), requires_python=requires)


def _inline_metadata(text: str) -> Iterator[str]:
    """Yield the contents of the blocks, each of which ends with the last `# ///` of its comment (PEP 723)."""
    lines = iter([*text.splitlines(), ""])
    for line in lines:
        if line.rstrip() != "# /// script":
            continue
        content = list(itertools.takewhile(lambda line: line == "#" or line.startswith("# "), lines))
        ends = [number for number, line in enumerate(content) if line.rstrip() == "# ///"]
        if ends:
            yield "\n".join(line[2:] for line in content[: ends[-1]])


def from_pylock(path: Path, *, extras: Sequence[str], groups: Sequence[str]) -> UvInputs:
    """Return a pylock.toml (PEP 751) as inputs.

    :raises InvalidArgumentError: if it can't be read, or is invalid.
    """
    data = read_toml(path)
    if not str(data.get("lock-version", "")).startswith("1.") or not isinstance(data.get("packages"), list):
        raise InvalidArgumentError(
            f"{path} is not a pylock.toml of version 1.x (PEP 751). Create one with `uv export --format pylock.toml`."
        )
    for what, chosen, there in (("extras", extras, "extras"), ("groups", groups, "dependency-groups")):
        unknown = sorted(set(chosen) - set(data.get(there, [])))
        if unknown:
            raise InvalidArgumentError(
                f"{path} was locked without the {what} {unknown}, only with {data.get(there, [])}. Lock it again with"
                " them, or correct the argument."
            )
    check_strings(data, path)
    tree = InputTree(path.parent, path)
    tree.add(path, key={name: value for name, value in data.items() if name not in ("created-by", "tool")})
    for package in data["packages"]:
        if "path" in package.get("vcs", {}):
            raise InvalidArgumentError(
                f"{package.get('name')} in {path} is a local repository, not a URL. Lock it again."
            )
        for source in (
            package.get("directory"),
            package.get("archive"),
            package.get("sdist"),
            *package.get("wheels", []),
        ):
            if source and "path" in source:
                tree.add_local(absolute(f"{source['path']}/{source.get('subdirectory', '')}", path.parent))
    return UvInputs("pylock", path, path.parent, (tree,), extras=tuple(extras), groups=tuple(groups))


def check_python(requires: str, versions: Iterable[str], path: Path) -> None:
    """Check that at least one of several versions of Python meets the `requires-python` of a file.

    :raises InvalidArgumentError: if none does.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        allowed = SpecifierSet(requires)
    except InvalidSpecifier as error:
        raise InvalidArgumentError(f"{path} has an invalid requires-python: {error}. Correct the file.") from error
    versions = list(versions)
    if not any(allowed.contains(version, prereleases=True) for version in versions):
        shown = versions[0] if len(versions) == 1 else f'python="{versions[0].rpartition(".")[0]}"'
        raise InvalidArgumentError(f"{path} requires Python {requires}, which excludes {shown}. Change one of them.")


def absolute(path: str, base: Path) -> Path:
    """Return an absolute path, without `..`."""
    return Path(os.path.normpath(base / path))
