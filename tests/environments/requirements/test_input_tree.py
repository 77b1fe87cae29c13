"""Local projects and wheels: what the key depends on, and which errors are raised."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.requirements.input_tree import InputTree, copy_of, project_files
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import commit, key_of, make_library, write

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def names(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in project_files(root)}


def test_a_project_counts_by_its_contents_and_not_by_its_path(tmp_path: Path, library: Path) -> None:
    elsewhere = shutil.copytree(library, tmp_path / "else" / "where")
    listed = VenvEnvironment(["./my_lib", "six"], base_dir=tmp_path).key
    assert VenvEnvironment([str(elsewhere), "six"]).key == listed
    assert VenvEnvironment(["-e ./my_lib", "six"], base_dir=tmp_path).key == listed
    assert VenvEnvironment(["./my_lib[fast]", "six"], base_dir=tmp_path).key != listed


def test_without_git_all_but_caches_and_logs_count(tmp_path: Path, library: Path) -> None:
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    for left in (".hg/store", "build/lib/x.py", "build/bdist.linux-x86_64/x", "dist/a.whl", ".venv/pyvenv.cfg",
                 ".venv/x.py", "venv/pyvenv.cfg", "venv/x.py", "src/my_lib/__pycache__/a.pyc", "logs/run.log",
                 "src/my_lib.egg-info/PKG-INFO", "node_modules/x.js"):  # fmt: skip
        write(library / left, "x")
    assert environment.key == before
    write(library / "src" / "my_lib" / "build" / "data.txt", "x")
    assert environment.key != before


@pytest.mark.parametrize("name", ["venv", "build", "dist", "node_modules"])
def test_packages_with_the_names_of_leftovers_belong_to_the_project(name: str, library: Path) -> None:
    write(library / "src" / name / "__init__.py", "")
    write(library / name / "__init__.py", "")
    write(library / name / "module.py", "")
    assert {f"src/{name}/__init__.py", f"{name}/__init__.py", f"{name}/module.py"} <= names(library)


@needs_git
def test_with_git_what_it_does_not_ignore_counts(library: Path) -> None:
    commit(library)
    before = names(library)
    for left in ("ignored/x.py", "logs/run.log", "my_lib.log"):
        write(library / left, "x")
    write(library / ".git" / "info" / "exclude", "ignored/\n")
    assert names(library) == before
    for new in ("src/my_lib/new.py", "build/lib/x.py", "dist/x.whl"):
        write(library / new, "x")
    assert names(library) == before | {"src/my_lib/new.py", "build/lib/x.py", "dist/x.whl"}
    write(library / "kept.log", "x")
    subprocess.run(["git", "add", "kept.log"], cwd=library, check=True)
    (library / "pyproject.toml").unlink()
    assert "kept.log" in names(library)
    assert "pyproject.toml" not in names(library)


@needs_git
def test_files_of_submodules_count(tmp_path: Path, library: Path) -> None:
    commit(make_library(tmp_path / "inner"))
    commit(library)
    add = ["git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "inner"), "inner"]
    subprocess.run(add, cwd=library, check=True)
    assert "inner/src/my_lib/__init__.py" in names(library)


def test_links_to_parents_are_followed_once(library: Path) -> None:
    (library / "src" / "loop").symlink_to("..")
    assert "src/my_lib/__init__.py" in names(library)


@pytest.mark.parametrize(
    "source",
    [
        'sib = { path = "../sib" }',
        'sib = [{ path = "../sib", extra = "x" }, { git = "https://example.com/x.git", extra = "y" }]',
    ],
)
def test_path_dependencies_of_a_project_count_too(source: str, tmp_path: Path) -> None:
    make_library(tmp_path / "my_lib", more=f'dependencies = ["sib"]\n[tool.uv.sources]\n{source}\n')
    sib = make_library(tmp_path / "sib", name="sib")
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    write(sib / "src" / "sib" / "__init__.py", "ANSWER = 43\n")
    assert environment.key != before


def test_settings_members_and_the_lock_of_a_workspace_count(tmp_path: Path) -> None:
    root = write(tmp_path / "pyproject.toml", '[tool.uv.workspace]\nmembers = ["libs/*"]\n')
    one = make_library(tmp_path / "libs" / "one", name="one")
    two = make_library(tmp_path / "libs" / "two", name="two")
    environment = VenvEnvironment(["./libs/one"], base_dir=tmp_path)
    keys = [environment.key]
    changes: list[Callable[[], object]] = [
        lambda: write(root, root.read_text() + '[tool.uv]\nindex-url = "https://example.com/simple"\n'),
        lambda: write(two / "src" / "two" / "__init__.py", ""),
        lambda: write(tmp_path / "uv.toml", 'exclude-newer = "2026-01-01"\n'),
        lambda: write(one / "src" / "one" / "__init__.py", ""),
        lambda: write(tmp_path / "uv.lock", "version = 1\n"),
    ]
    for change in changes:
        change()
        keys.append(environment.key)
    assert len(set(keys)) == len(keys)


def test_only_members_that_the_lock_connects_count(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[tool.uv.workspace]\nmembers = ["libs/*"]\n')
    libs = {name: make_library(tmp_path / "libs" / name, name=name) for name in ("one", "two", "three", "four")}
    needs = {"one": "two", "two": "three", "three": "two", "four": "one"}
    package = '[[package]]\nname = "{0}"\nsource = {{ editable = "libs/{0}" }}\ndependencies = [{{ name = "{1}" }}]\n'
    write(tmp_path / "uv.lock", "version = 1\n" + "".join(package.format(*each) for each in needs.items()))
    environment = VenvEnvironment.from_file(libs["one"] / "pyproject.toml")
    before = environment.key
    write(libs["four"] / "src" / "four" / "__init__.py", "")
    assert environment.key == before
    write(libs["three"] / "src" / "three" / "__init__.py", "")
    assert environment.key != before


@needs_git
def test_a_version_from_git_is_part_of_the_key(tmp_path: Path, library: Path) -> None:
    text = (library / "pyproject.toml").read_text().replace('version = "1.0"', 'dynamic = ["version"]')
    write(library / "pyproject.toml", text)
    commit(tmp_path)
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    subprocess.run(["git", "tag", "-m", "x", "v9"], cwd=tmp_path, check=True)
    assert environment.key != before


@needs_git
def test_the_copy_of_a_repository_is_as_clean_and_as_changed_as_the_original(tmp_path: Path) -> None:
    def status(root: Path) -> str:
        return subprocess.run(["git", "status", "--short"], cwd=root, check=True, capture_output=True, text=True).stdout

    root = make_library(tmp_path / "repo" / "my_lib").parent
    text = (root / "my_lib" / "pyproject.toml").read_text().replace('version = "1.0"', 'dynamic = ["version"]')
    write(root / "my_lib" / "pyproject.toml", text)
    write(root / "other" / "file", "1")
    commit(root)
    for number, more in enumerate(("", "# changed\n")):
        write(root / "my_lib" / "pyproject.toml", text + more)
        tree = InputTree(root)
        tree.add_local(root / "my_lib")
        tree.copy_to(tmp_path / f"copy-{number}")
        assert status(copy_of(root, tmp_path / f"copy-{number}")) == status(root)


def test_relative_paths_start_from_the_file_that_creates_the_environment(tmp_path: Path, library: Path) -> None:
    code = (
        "from airflow_provider_sparkdeps.environments import VenvEnvironment\nkey = VenvEnvironment(['./my_lib']).key"
    )
    dag = write(tmp_path / "dag.py", code)
    for module in ("dag", "airflow_provider_sparkdeps.example_dags.dag"):
        namespace: dict[str, object] = {"__file__": str(dag), "__name__": module}
        exec(compile(code, dag, "exec"), namespace)
        assert namespace["key"] == VenvEnvironment([str(library)]).key


@pytest.mark.parametrize("path", ["./nothing", "./folder", "./file.txt", "./nothing.whl"])
def test_a_path_that_cannot_be_installed_is_refused_when_the_key_is_asked_for(path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "file.txt", "x")
    environment = VenvEnvironment([path], base_dir=tmp_path)
    with pytest.raises(
        InvalidArgumentError, match=r"no pyproject\.toml|not a project directory, an sdist or a wheel|Could not read"
    ):
        _ = environment.key


@pytest.mark.parametrize(
    "place",
    [
        lambda root: write(
            root / "pyproject.toml", '[project]\nname = "a"\nversion = "1"\n[[tool.uv.index]]\nurl = "{}"\n'
        ),
        lambda root: write(root / "uv.toml", 'find-links = ["{}"]\n'),
    ],
)
def test_credentials_in_the_settings_of_a_project_are_refused(place: Callable[[Path], Path], tmp_path: Path) -> None:
    library = make_library(tmp_path / "my_lib")
    file = place(library)
    write(file, file.read_text().replace("{}", "https://me:hunter2@example.com/simple"))
    with pytest.raises(InvalidArgumentError, match="contains credentials") as caught:
        _ = VenvEnvironment(["./my_lib"], base_dir=tmp_path).key
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidArgumentError, match="contains credentials"):
        key_of(library / "pyproject.toml")
