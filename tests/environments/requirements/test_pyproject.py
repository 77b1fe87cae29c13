"""pyproject.toml: what the key depends on, and which errors are raised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import PYPROJECT, key_of, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    "options",
    [{}, {"extras": ["fast"]}, {"extras": ["all"]}, {"groups": ["dev"]}, {"extras": ["fast"], "groups": ["dev"]}],
)
def test_the_key_depends_on_the_dependencies_and_on_what_is_selected(
    options: dict[str, list[str]], tmp_path: Path
) -> None:
    keys = [key_of(write(tmp_path / "pyproject.toml", PYPROJECT), **options)]
    for old, new in (
        ('"six"', '"six<2"'),
        ('"markupsafe"', '"markupsafe<4"'),
        ('"pycodestyle"', '"pyflakes"'),
        ("[project]", '[tool.uv]\nindex-url = "https://example.com/simple"\n[project]'),
        ("[project]", '[tool.uv]\nexclude-newer = "2026-01-01"\n[project]'),
    ):
        keys.append(key_of(write(tmp_path / "pyproject.toml", PYPROJECT.replace(old, new)), **options))
    assert len(set(keys)) == len(keys)


def test_what_is_selected_makes_another_key(tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", PYPROJECT)
    keys = {key_of(path), key_of(path, extras=["fast"]), key_of(path, groups=["dev"]), key_of(path, extras=["all"])}
    assert len(keys) == 4


def test_what_is_not_read_does_not_change_the_key(tmp_path: Path) -> None:
    before = key_of(write(tmp_path / "pyproject.toml", PYPROJECT))
    changed = PYPROJECT.replace('version = "1"', 'version = "2"\ndescription = "x" # why') + "[tool.ruff]\n"
    assert key_of(write(tmp_path / "pyproject.toml", changed)) == before
    write(tmp_path / "module.py", "x")
    assert key_of(tmp_path / "pyproject.toml") == before


@pytest.mark.parametrize("head", ['dynamic = ["dependencies"]', None])
def test_all_files_count_if_only_the_build_backend_knows_the_dependencies(head: str | None, tmp_path: Path) -> None:
    poetry = '[tool.poetry]\nname = "app"\n[build-system]\nrequires = ["poetry-core"]\n'
    text = f'[project]\nname = "app"\nversion = "1"\n{head}\n' if head else poetry
    before = key_of(write(tmp_path / "pyproject.toml", text))
    write(tmp_path / "requirements.in", "six\n")
    assert key_of(tmp_path / "pyproject.toml") != before


@pytest.mark.parametrize(
    "requires",
    ["", ">=3.9", f"=={OWN}.*", f"~={OWN}.0", f">{OWN}.0", f"!={OWN}.0,<4", f">={OWN}.1,<{OWN}.40", f"=={OWN}.7"],
)
def test_a_requirement_of_python_is_read_as_pep_440_says(requires: str, tmp_path: Path) -> None:
    text = PYPROJECT.replace(">=3.9", requires)
    assert key_of(write(tmp_path / "pyproject.toml", text), groups=["lint"])


def test_an_index_that_only_poetry_knows_is_refused(tmp_path: Path) -> None:
    poetry = '[tool.poetry]\nname = "app"\nversion = "1"\n'
    text = f'{poetry}[tool.poetry.dependencies]\nsix = {{ version = "*", source = "x" }}\n'
    with pytest.raises(InvalidArgumentError, match=r"\[tool\.poetry\.dependencies\] where six comes from \(source\)"):
        key_of(write(tmp_path / "pyproject.toml", text))


@pytest.mark.parametrize("requires", ["<3.9", f"!={OWN}.*", f"<{OWN}", f">{OWN}.99", f"=={OWN}.99"])
def test_a_project_that_excludes_this_python_is_refused(requires: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", PYPROJECT.replace(">=3.9", requires))
    with pytest.raises(InvalidArgumentError, match=rf'requires Python .*, which excludes python="{OWN}"'):
        key_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project\n", "is not TOML"),
        ("project = 3", "does not have the structure of its file type"),
        ('[project]\nname = "app"\n', "has no dependencies"),
        ('[project]\nname = "app"\nrequires-python = "3"\n', "invalid requires-python"),
        ("[tool.black]\n", r"has no \[project\] table"),
    ],
)
def test_an_invalid_file_is_reported(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        key_of(write(tmp_path / "pyproject.toml", text))
