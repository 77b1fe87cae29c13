"""Local projects and wheels: what the key depends on, and which errors are raised."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.requirements.input_tree import InputTree, copy_of
from airflow_provider_sparkdeps.environments.requirements.project_files import project_files
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import commit, key_of, make_library, write

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


DYNAMIC = ('version = "1.0"', 'dynamic = ["version"]')


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


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


@needs_git
def test_a_submodule_that_is_not_there_is_empty(tmp_path: Path, library: Path) -> None:
    commit(make_library(tmp_path / "inner"))
    commit(library)
    git(library, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "inner"), "inner")
    commit(library)
    git(library, "submodule", "--quiet", "deinit", "--force", "inner")
    assert "inner/src/my_lib/__init__.py" not in names(library)


@needs_git
def test_a_checkout_that_is_a_link_is_copied_with_its_history(tmp_path: Path) -> None:
    # As git-sync lays it out.
    real = make_library(tmp_path / "worktrees" / "1a2b")
    write(real / "pyproject.toml", (real / "pyproject.toml").read_text().replace(*DYNAMIC))
    commit(real)
    (tmp_path / "link").symlink_to(real)
    tree = InputTree(tmp_path)
    tree.add_local(tmp_path / "link")
    tree.copy_to(tmp_path / "copy")
    copy = copy_of(tmp_path / "link", tmp_path / "copy")
    assert git(copy, "status", "--short") == ""
    assert git(copy, "rev-parse", "HEAD") == git(real, "rev-parse", "HEAD")


@needs_git
@pytest.mark.skipif(os.geteuid() != 0, reason="needs two users")
def test_a_repository_of_another_user_runs_nothing(tmp_path: Path, library: Path) -> None:
    write(library / "pyproject.toml", (library / "pyproject.toml").read_text().replace(*DYNAMIC))
    write(library / ".gitattributes", "*.py filter=evil\n")
    commit(library)
    git(library, "config", "filter.evil.clean", f"touch {tmp_path / 'ran'}; cat")
    for path in (library / "src" / "my_lib" / "__init__.py", library, *library.rglob("*")):
        os.chown(path, 1234, 1234)
    write(library / "src" / "my_lib" / "__init__.py", "ANSWER = 43\n")
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    write(library / "src" / "my_lib" / "__init__.py", "ANSWER = 44\n")
    assert environment.key != before
    assert not (tmp_path / "ran").exists()


@needs_git
def test_all_files_count_of_a_project_in_a_directory_that_git_ignores(tmp_path: Path, library: Path) -> None:
    write(tmp_path / ".gitignore", "my_lib\n")
    commit(tmp_path)
    assert "src/my_lib/__init__.py" in names(library)
    write(tmp_path / ".gitignore", "*\n")
    assert "src/my_lib/__init__.py" in names(library)


def test_the_mode_of_a_file_counts(tmp_path: Path, library: Path) -> None:
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    script = write(library / "src" / "my_lib" / "run.sh", "")
    before = environment.key
    script.chmod(0o755)
    assert environment.key != before


def test_a_project_that_is_excluded_from_a_workspace_has_its_own_lock(tmp_path: Path) -> None:
    write(tmp_path / "pyproject.toml", '[tool.uv.workspace]\nmembers = ["libs/*"]\nexclude = ["libs/solo"]\n')
    for name in ("libs/solo", "other", "libs/member"):
        path = make_library(tmp_path / name, name=name.rpartition("/")[2]) / "pyproject.toml"
        own, root = path.with_name("uv.lock"), tmp_path / "uv.lock"
        keys = {"none": key_of_lockless(path)}
        keys["root"] = key_of_lockless(path, root)
        keys["own"] = key_of_lockless(path, own)
        # A lock in a member is not used, but it is one of its files.
        changed = {each for each in ("root", "own") if keys[each] != keys["none"]}
        assert changed == ({"root", "own"} if name == "libs/member" else {"own"})


def key_of_lockless(path: Path, lock: Path | None = None) -> str:
    """The key while there is a lock."""
    text = path.read_text()
    write(path, text.replace("[build-system]", 'dependencies = ["six"]\n[build-system]'))
    if lock:
        write(lock, "version = 1\n")
    try:
        return key_of(path)
    finally:
        write(path, text)
        if lock:
            lock.unlink()


def test_links_to_parents_are_followed_once(library: Path) -> None:
    for name in "abcdefghijklmnopqrstuvwxyz":
        (library / "src" / name).symlink_to("..")
    assert "src/my_lib/__init__.py" in names(library)
    if shutil.which("git"):
        commit(library)
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
def test_all_that_a_version_from_git_may_depend_on_is_part_of_the_key(tmp_path: Path, library: Path) -> None:
    write(library / "pyproject.toml", (library / "pyproject.toml").read_text().replace(*DYNAMIC))
    outside = write(tmp_path / "outside.txt", "")
    commit(tmp_path)
    git(tmp_path, "tag", "first")
    write(outside, "1")
    commit(tmp_path)
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    keys = [environment.key]
    changes: list[Callable[[], object]] = [
        lambda: git(tmp_path, "tag", "v9"),
        lambda: git(tmp_path, "tag", "lib-v1", "HEAD~1"),
        lambda: git(tmp_path, "tag", "--force", "first", "HEAD"),
        lambda: git(tmp_path, "checkout", "--quiet", "-b", "release-1"),
        lambda: write(outside, "2"),
        lambda: write(outside, "3"),
        lambda: git(tmp_path, "add", "outside.txt"),
        lambda: write(tmp_path / "new.txt", ""),
        lambda: commit(tmp_path),
        lambda: library.rename(tmp_path / "lib-2") and git(tmp_path, "add", "--all"),
    ]
    for number, change in enumerate(changes):
        change()
        index = (tmp_path / ".git" / "index").read_bytes()
        moved = number == len(changes) - 1
        keys.append(VenvEnvironment(["./lib-2" if moved else "./my_lib"], base_dir=tmp_path).key)
        assert (tmp_path / ".git" / "index").read_bytes() == index, "something was written to the repository"
    assert len(set(keys)) == len(keys)


@needs_git
def test_the_copy_of_a_repository_is_in_the_same_state(tmp_path: Path) -> None:
    root = make_library(tmp_path / "repo" / "my_lib").parent
    project = root / "my_lib" / "pyproject.toml"
    write(project, project.read_text().replace(*DYNAMIC))
    write(root / "other" / "file", "1")
    write(root / "gone", "")
    (root / "my_lib" / "link").symlink_to("../other/file")
    commit(root)
    git(root, "tag", "v1")
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: project.touch(),
        lambda: write(project, project.read_text() + "#\n"),
        lambda: write(root / "other" / "file", "2"),
        lambda: (root / "gone").unlink(),
        lambda: write(root / "my_lib" / "new.py", "") and git(root, "add", "--all"),
        lambda: write(root / "my_lib" / "untracked.py", ""),
    ]
    for number, change in enumerate(changes):
        change()
        tree = InputTree(root)
        tree.add_local(root / "my_lib")
        tree.copy_to(tmp_path / f"copy-{number}")
        copy = copy_of(root, tmp_path / f"copy-{number}")
        assert git(copy, "status", "--short") == git(root, "status", "--short")
        assert git(copy, "describe", "--tags", "--dirty") == git(root, "describe", "--tags", "--dirty")
        assert (copy / "other" / "file").read_text() == (root / "other" / "file").read_text()


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


@pytest.mark.parametrize("setting", ['python-platform = "windows"', 'no-emit-package = ["six"]', "no-deps = true"])
def test_settings_that_change_what_is_installed_are_refused(setting: str, tmp_path: Path) -> None:
    library = make_library(tmp_path / "my_lib", more=f"[tool.uv.pip]\n{setting}\n")
    with pytest.raises(InvalidArgumentError, match=rf"pyproject\.toml have `pip\.{setting.split()[0]}`"):
        _ = VenvEnvironment(["./my_lib"], base_dir=tmp_path).key
    with pytest.raises(InvalidArgumentError, match="something else may be installed"):
        key_of(library / "pyproject.toml")


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


def test_an_absolute_path_of_a_source_is_refused(tmp_path: Path, library: Path) -> None:
    for source in (f'my-lib = {{ path = "{library}" }}', ""):
        needs = "my-lib" if source else f"my-lib @ {library.as_uri()}"
        more = f'dependencies = ["{needs}"]\n[tool.uv.sources]\n{source}\n'
        make_library(tmp_path / "app", name="app", more=more)
        with pytest.raises(InvalidArgumentError, match=r"is absolute|has a `file:` URL"):
            _ = VenvEnvironment(["./app"], base_dir=tmp_path).key


def test_file_names_that_are_not_text_count(tmp_path: Path, library: Path) -> None:
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
    before = environment.key
    Path(os.fsdecode(bytes(library / "src" / "my_lib") + b"/\xff.txt")).write_text("x")
    assert environment.key != before
