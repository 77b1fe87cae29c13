"""Local projects: what the key depends on, and which errors are raised."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import key_of, make_library, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_a_project_counts_by_its_contents_and_not_by_its_path(tmp_path: Path, library: Path) -> None:
    elsewhere = shutil.copytree(library, tmp_path / "else" / "where")
    listed = VenvEnvironment(["./my_lib", "six"], base_dir=tmp_path).key
    assert VenvEnvironment([str(elsewhere), "six"]).key == listed
    assert VenvEnvironment(["-e ./my_lib", "six"], base_dir=tmp_path).key == listed
    assert key_of(write(tmp_path / "else" / "requirements.txt", "six\n-e ../my_lib/\n")) == listed


def test_any_source_file_changes_the_key_but_files_of_tools_do_not(tmp_path: Path, library: Path) -> None:
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    for left in (".git/HEAD", "build/lib/x.py", "dist/a.whl", ".venv/x", "src/my_lib/__pycache__/a.pyc",
                 "src/my_lib.egg-info/PKG-INFO"):  # fmt: skip
        write(library / left, "x")
    assert environment.key == before
    write(library / "src" / "my_lib" / "build" / "data.txt", "x")
    assert environment.key != before


def test_path_dependencies_of_a_project_count_too(tmp_path: Path) -> None:
    more = 'dependencies = ["other-lib"]\n[tool.uv.sources]\nother-lib = { path = "../other" }\n'
    make_library(tmp_path / "my_lib", more=more)
    other = make_library(tmp_path / "other", name="other-lib")
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    write(other / "src" / "other_lib" / "__init__.py", "ANSWER = 43\n")
    assert environment.key != before


def test_relative_paths_start_from_the_file_that_creates_the_environment(tmp_path: Path, library: Path) -> None:
    code = (
        "from airflow_provider_sparkdeps.environments import VenvEnvironment\nkey = VenvEnvironment(['./my_lib']).key"
    )
    dag = write(tmp_path / "dag.py", code)
    names: dict[str, object] = {"__file__": str(dag), "__name__": "dag"}
    exec(compile(code, dag, "exec"), names)
    assert names["key"] == VenvEnvironment([str(library)]).key


@pytest.mark.parametrize("path", ["./nothing", "./folder", "./file.txt"])
def test_a_path_that_cannot_be_installed_is_refused_when_the_key_is_asked_for(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "file.txt", "x")
    environment = VenvEnvironment([path], base_dir=tmp_path)
    with pytest.raises(
        InvalidArgumentError, match=r"it has no pyproject\.toml|is not a project directory, an sdist or a wheel"
    ):
        _ = environment.key
