"""Reads the dependencies, extras and dependency groups of a pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.input_files import read_toml
from airflow_provider_sparkdeps.environments.requirements.local_projects import LocalProject, uv_sources
from airflow_provider_sparkdeps.environments.requirements.pep508 import normalize_requirement, refuse_credentials
from airflow_provider_sparkdeps.environments.requirements.requirement_set import RequirementSet
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError


def read_project(path: Path, *, extras: Sequence[str], groups: Sequence[str], python: str) -> RequirementSet:
    """Return the dependencies of a pyproject.toml, without the project itself.

    If there is a uv.lock next to it, its packages are returned instead.

    :param extras: of `[project.optional-dependencies]`.
    :param groups: of `[dependency-groups]`.
    :param python: minor version of Python that they are installed for.
    :raises InvalidArgumentError: if the file can't be read, or is invalid.
    """
    data = read_toml(path)
    _check_python(path, data, python)
    project = data.get("project", {})
    optional = _by_name(project.get("optional-dependencies", {}))
    of_groups = _by_name(data.get("dependency-groups", {}))
    lines = [*_list(path, "[project] dependencies", project.get("dependencies", []))]
    for extra in extras:
        lines += _expand(path, extra, optional, own_name=project.get("name", ""))
    for group in groups:
        lines += _group(path, group, of_groups, ())
    lock = path.with_name("uv.lock")
    if lock.is_file():
        from airflow_provider_sparkdeps.environments.requirements.lock_files import read_uv_lock

        return read_uv_lock(lock, project=data, extras=extras, groups=groups)
    if not lines:
        raise InvalidArgumentError(
            f"{path} has no dependencies{_selection(extras, groups)}. Add them to [project] dependencies, or select"
            " existing extras= or groups=."
        )
    settings = data.get("tool", {}).get("uv", {})
    for unknown in ("override-dependencies", "workspace"):
        if settings.get(unknown):
            raise InvalidArgumentError(
                f"{path} has {unknown} in [tool.uv], which needs a lock. Run `uv lock` in its directory."
            )
    try:
        constraints = tuple(sorted(normalize_requirement(line) for line in settings.get("constraint-dependencies", [])))
        wanted = RequirementSet(constraints=constraints, options=tuple(_indexes(settings)))
        for line in lines:
            wanted += _sourced(normalize_requirement(line), uv_sources(data), path)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    return wanted


def _check_python(path: Path, data: dict[str, Any], python: str) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    wants = data.get("project", {}).get("requires-python", "")
    try:
        suits = SpecifierSet(wants)
    except InvalidSpecifier as error:
        raise InvalidArgumentError(f"{path} has an invalid requires-python: {error}. Correct the file.") from error
    if not any(suits.contains(f"{python}.{patch}") for patch in (0, 99)):
        raise InvalidArgumentError(
            f'{path} requires Python {wants}, which excludes python="{python}". Change one of them.'
        )


def _selection(extras: Sequence[str], groups: Sequence[str]) -> str:
    selected = [*(f"extra {name!r}" for name in extras), *(f"group {name!r}" for name in groups)]
    return f" (with {', '.join(selected)})" if selected else ""


def _by_name(table: dict[str, Any]) -> dict[str, Any]:
    from packaging.utils import canonicalize_name

    return {canonicalize_name(name): lines for name, lines in table.items()}


def _expand(path: Path, extra: str, optional: dict[str, Any], *, own_name: str) -> Iterator[str]:
    """Yield the requirements of an extra. `app[other]`, with the name of the project itself, means another extra."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    queue, seen = [extra], set()
    while queue:
        name = queue.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in _lines_of(path, name, optional, "extra", "[project.optional-dependencies]"):
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                requirement = None  # normalize_requirement reports what is wrong
            if requirement and canonicalize_name(requirement.name) == canonicalize_name(own_name):
                queue += [canonicalize_name(each) for each in requirement.extras]
            else:
                yield line


def _group(path: Path, group: str, groups: dict[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    from packaging.utils import canonicalize_name

    if group in above:
        raise InvalidArgumentError(
            f"{path}: group {group!r} includes itself: {' -> '.join((*above, group))}. Remove one of these includes."
        )
    for line in _lines_of(path, group, groups, "group", "[dependency-groups]"):
        if isinstance(line, str):
            yield line
        elif isinstance(line, dict) and isinstance(line.get("include-group"), str):
            yield from _group(path, canonicalize_name(line["include-group"]), groups, (*above, group))
        else:
            raise InvalidArgumentError(
                f"{path}: {line!r} in group {group!r} is not a requirement or an include-group. Correct the file."
            )


def _lines_of(path: Path, name: str, table: dict[str, Any], what: str, where: str) -> Iterable[Any]:
    if name not in table:
        known = ", ".join(sorted(table)) or "none"
        raise InvalidArgumentError(f"{path} has no {what} {name!r} in {where}, only: {known}. Correct {what}s=.")
    return _list(path, f"{name!r} in {where}", table[name])


def _list(path: Path, what: str, value: Any) -> Iterable[Any]:
    if not isinstance(value, list):
        raise InvalidArgumentError(f"{path}: {what} is {value!r}, which is not a list. Write [{str(value)!r}].")
    return value


def _indexes(settings: dict[str, Any]) -> Iterator[str]:
    for index in settings.get("index", []):
        url = str(index.get("url", ""))
        refuse_credentials(url, f"index {index.get('name', url)!r}")
        if index.get("explicit"):
            raise InvalidArgumentError("An explicit index in [tool.uv] needs a lock. Run `uv lock` in its directory.")
        yield f"{'--index-url' if index.get('default') else '--extra-index-url'} {url}"


def _sourced(line: str, sources: dict[str, Any], path: Path) -> RequirementSet:
    from packaging.requirements import Requirement

    requirement = Requirement(line)
    source = _by_name(sources).get(requirement.name)
    if source is None:
        return RequirementSet(requirements=(line,))
    marker = str(requirement.marker or "")
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    if isinstance(source, dict) and "path" in source:
        return RequirementSet(local_projects=(LocalProject((path.parent / source["path"]).resolve(), extras, marker),))
    url = None
    if isinstance(source, dict) and "git" in source:
        revision = source.get("rev") or source.get("tag") or source.get("branch")
        folder = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
        url = f"git+{source['git']}{f'@{revision}' if revision else ''}{folder}"
    elif isinstance(source, dict) and "url" in source:
        url = source["url"]
    if url is None:
        raise InvalidArgumentError(
            f"The source of {requirement.name!r} in [tool.uv.sources] needs a lock. Run `uv lock`."
        )
    refuse_credentials(url, f"requirement {requirement.name!r}")
    return RequirementSet(
        requirements=(normalize_requirement(f"{requirement.name}{extras} @ {url}{f' ; {marker}' if marker else ''}"),)
    )
