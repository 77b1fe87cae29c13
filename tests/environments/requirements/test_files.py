"""Environments from files: what is read, what the key depends on, and which errors are raised."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import Environment, VenvEnvironment
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.build_contexts import build

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
SIX_HASH = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def key(path: Path, **choices: object) -> str:
    return VenvEnvironment.from_file(path, **choices).key  # type: ignore[arg-type]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A project of this machine that needs nothing."""
    return a_library(tmp_path / "my_lib")


def a_library(root: Path, *, name: str = "my-lib", more: str = "") -> Path:
    module = name.replace("-", "_")
    write(
        root / "pyproject.toml",
        f'[project]\nname = "{name}"\nversion = "1.0"\n{more}\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
    )
    write(root / "src" / module / "__init__.py", "ANSWER = 42\n")
    return root


class TestRequirementsFiles:
    def test_order_white_space_comments_and_where_a_line_stands_do_not_change_the_key(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one.txt", "pandas>=2,<3\nsix==1.17.0\n-c limits.txt\n")
        write(tmp_path / "limits.txt", "numpy<3\n")
        other = write(
            tmp_path / "else" / "where" / "requirements.txt",
            "# ours\n-r nested/base.txt\n\n  Pandas < 3, >= 2   # old\n--constraint=nested/limits.txt\n",
        )
        write(other.parent / "nested" / "base.txt", "six == \\\n    1.17.0\n")
        write(other.parent / "nested" / "limits.txt", "numpy <3  # the API\n")
        assert key(one) == key(other)

    @pytest.mark.parametrize("file", ["requirements.txt", "nested/base.txt", "nested/limits.txt"])
    def test_a_change_in_any_of_the_files_changes_the_key(self, file: str, tmp_path: Path) -> None:
        write(tmp_path / "requirements.txt", "pandas<3\n-r nested/base.txt\n-c nested/limits.txt\n")
        write(tmp_path / "nested/base.txt", "six==1.17.0\n")
        write(tmp_path / "nested/limits.txt", "numpy<3\n")
        environment = VenvEnvironment.from_file(tmp_path / "requirements.txt")
        before = environment.key
        write(tmp_path / file, (tmp_path / file).read_text().replace("<3", "<2").replace("1.17", "1.16"))
        assert environment.key != before

    def test_a_constraint_is_not_a_requirement(self, tmp_path: Path) -> None:
        write(tmp_path / "limits.txt", "six==1.17.0\n")
        wanted = write(tmp_path / "a.txt", "tabulate\n-r limits.txt\n")
        limited = write(tmp_path / "b.txt", "tabulate\n-c limits.txt\n")
        assert key(wanted) != key(limited)

    def test_hashes_and_indexes_are_part_of_the_key(self, tmp_path: Path) -> None:
        texts = [
            "six==1.17.0",
            f"six==1.17.0 --hash={SIX_HASH}",
            f"six==1.17.0 \\\n  --hash={SIX_HASH} \\\n  --hash=sha256:{'0' * 64}",
            "six==1.17.0\n--extra-index-url https://a.example.com/simple",
            "six==1.17.0\n--only-binary :all:",
        ]
        keys = [key(write(tmp_path / "requirements.txt", text)) for text in texts]
        assert len(set(keys)) == len(texts)
        turned = f"six==1.17.0 --hash=sha256:{'0' * 64} --hash={SIX_HASH}"
        assert key(write(tmp_path / "requirements.txt", turned)) == keys[2]

    def test_files_that_name_each_other_are_read_once(self, tmp_path: Path) -> None:
        write(tmp_path / "a.txt", "six\n-r b.txt\n")
        write(tmp_path / "b.txt", "tabulate\n-r a.txt\n")
        assert key(tmp_path / "a.txt") == key(tmp_path / "b.txt")

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("six\n-r lost.txt\n", r"lost\.txt, which .*requirements\.txt names, can't be read: No such file"),
            ("six\n\npandas => 2\n", r"requirements\.txt, line 3: 'pandas => 2' is not a requirement"),
            ("six\n--trusted-host x\n", r"line 2: option --trusted-host is not known here"),
            ("-i https://me:hunter2@example.com/simple\nsix", "line 1: The URL of --index-url holds a credential"),
            ("-i https://${USER}:${TOKEN}@example.com/simple", r"variables such as \$\{TOKEN\} are not filled in"),
            ("-f /wheels\nsix", "--find-links /wheels leads to this machine"),
            ("-r https://example.com/requirements.txt", "is not on this machine"),
            ("# nothing\n", r"requirements\.txt names no package"),
            ("./lost", r"lost has no pyproject|lost is neither a project's directory nor a wheel"),
        ],
    )
    def test_what_cannot_be_meant_is_told_with_file_and_line_when_it_is_read(
        self, text: str, says: str, tmp_path: Path
    ) -> None:
        environment = VenvEnvironment.from_file(write(tmp_path / "requirements.txt", text))
        with pytest.raises(InvalidArgumentError, match=says) as caught:
            _ = environment.key
        assert "hunter2" not in str(caught.value)
        assert str(caught.value).count(", line ") <= 1


class TestPyprojects:
    TEXT = """
[project]
name = "app"
version = "1"
requires-python = ">=3.9"
dependencies = ["six"]
[project.optional-dependencies]
fast = ["markupsafe"]
all = ["app[fast]", "tabulate"]
[dependency-groups]
dev = ["toolz", {include-group = "lint"}]
lint = ["pycodestyle"]
"""

    @pytest.mark.parametrize(
        ("choices", "requirements"),
        [
            ({}, ["six"]),
            ({"extras": ["fast"]}, ["six", "markupsafe"]),
            ({"extras": ["All"]}, ["six", "markupsafe", "tabulate"]),
            ({"groups": ["dev"]}, ["six", "toolz", "pycodestyle"]),
            ({"extras": ["fast"], "groups": ["lint"]}, ["six", "markupsafe", "pycodestyle"]),
        ],
    )
    def test_dependencies_extras_and_groups_are_what_a_list_of_them_would_be(
        self, choices: dict[str, list[str]], requirements: list[str], tmp_path: Path
    ) -> None:
        path = write(tmp_path / "pyproject.toml", self.TEXT)
        assert key(path, **choices) == VenvEnvironment(requirements).key

    def test_what_is_not_a_dependency_does_not_change_the_key(self, tmp_path: Path) -> None:
        before = key(write(tmp_path / "pyproject.toml", self.TEXT))
        changed = self.TEXT.replace('version = "1"', 'version = "2"').replace("pycodestyle", "pyflakes")
        assert key(write(tmp_path / "pyproject.toml", changed)) == before
        assert key(write(tmp_path / "pyproject.toml", changed.replace('"six"', '"six<2"'))) != before

    def test_sources_of_uv_are_followed(self, tmp_path: Path, library: Path) -> None:
        text = (
            '[project]\nname = "app"\nversion = "1"\ndependencies = ["my-lib", "six"]\n'
            '[tool.uv.sources]\nmy_lib = { path = "my_lib", editable = true }\n'
        )
        path = write(tmp_path / "pyproject.toml", text)
        assert key(path) == VenvEnvironment(["./my_lib", "six"], base_dir=tmp_path).key
        git = text.replace('path = "my_lib", editable = true', 'git = "https://example.com/lib.git", tag = "v1"')
        assert key(write(path, git)) == VenvEnvironment(["my-lib @ git+https://example.com/lib.git@v1", "six"]).key
        with pytest.raises(InvalidArgumentError, match=r"source of 'my-lib' in \[tool\.uv\.sources\] needs a lock"):
            key(write(path, text.replace('path = "my_lib", editable = true', "workspace = true")))

    @pytest.mark.parametrize(
        ("text", "choices", "says"),
        [
            ("[project\n", {}, "is not TOML"),
            ("project = 3", {}, "does not have the structure of its file type"),
            ('[project]\ndependencies = "six"', {}, r"dependencies is 'six', which is no list\. Write \['six'\]"),
            (TEXT, {"extras": ["slow"]}, r"no extra 'slow' in \[project\.optional-dependencies\]: there are all, fast"),
            (TEXT, {"groups": ["docs"]}, "no group 'docs' in"),
            (TEXT.replace(">=3.9", "<3.9"), {}, rf'requires Python <3\.9, which excludes python="{OWN}"'),
            ('[project]\nname = "app"\n', {}, "names no dependencies"),
            (TEXT.replace("pycodestyle", 'x"}, {include-group = "dev'), {"groups": ["dev"]}, "is not TOML|circle"),
            (TEXT.replace('["pycodestyle"]', '[{include-group = "dev"}]'), {"groups": ["dev"]}, "Break the circle"),
        ],
    )
    def test_what_cannot_be_meant_is_told(
        self, text: str, choices: dict[str, list[str]], says: str, tmp_path: Path
    ) -> None:
        path = write(tmp_path / "pyproject.toml", text)
        with pytest.raises(InvalidArgumentError, match=says):
            key(path, **choices)


class TestLocks:
    @pytest.fixture(scope="class")
    @classmethod
    def locked(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("locked")
        a_library(root / "libs" / "my_lib")
        text = TestPyprojects.TEXT.replace('["six"]', '["six", "my-lib"]')
        write(root / "pyproject.toml", text + '[tool.uv.sources]\nmy-lib = { path = "libs/my_lib", editable = true }\n')
        subprocess.run([uv_binary(), "lock", "--quiet", "--python", sys.executable], cwd=root, check=True)
        return root

    @pytest.fixture
    def copy(self, locked: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(locked, tmp_path / "app"))

    def test_a_checkout_elsewhere_has_the_same_key(self, locked: Path, copy: Path) -> None:
        assert key(locked / "pyproject.toml") == key(copy / "pyproject.toml") == key(copy / "uv.lock")

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("uv.lock", 'version = "1.17.0"', 'version = "1.16.0"'),
            ("libs/my_lib/src/my_lib/__init__.py", "42", "43"),
        ],
    )
    def test_what_is_locked_is_the_key(self, file: str, old: str, new: str, copy: Path) -> None:
        before = key(copy / "uv.lock")
        assert key(copy / "uv.lock", extras=["fast"]) != before
        assert key(copy / "uv.lock", groups=["dev"]) != before
        assert old in (copy / file).read_text()
        write(copy / file, (copy / file).read_text().replace(old, new))
        assert key(copy / "uv.lock") != before

    def test_a_lock_that_its_project_has_left_behind_is_refused(self, copy: Path) -> None:
        path = copy / "pyproject.toml"
        write(path, path.read_text().replace('"six"', '"six<2"'))
        with pytest.raises(
            InvalidArgumentError, match=r"uv\.lock is older than the pyproject\.toml next to it \(six\)"
        ):
            key(path)

    def test_a_pylock_is_read_for_what_it_locks(self, tmp_path: Path) -> None:
        text = 'lock-version = "1.0"\ncreated-by = "{by}"\n'
        one = '[[packages]]\nname = "six"\nversion = "1.17.0"\nmarker = "python_version > \'3\'"\n'
        two = '[[packages]]\nname = "tabulate"\nversion = "0.9.0"\n'
        before = key(write(tmp_path / "a/pylock.toml", text.format(by="uv") + one + two))
        assert key(write(tmp_path / "b/pylock.scoring.toml", text.format(by="pip") + two + "# why\n" + one)) == before
        assert key(write(tmp_path / "c/pylock.toml", text.format(by="uv") + one + two.replace("9", "10"))) != before

    def test_a_pylocks_projects_count_by_content_wherever_they_lie(self, tmp_path: Path) -> None:
        text = 'lock-version = "1.0"\n[[packages]]\nname = "my-lib"\ndirectory = { path = "my_lib", editable = true }\n'
        keys = []
        for place in ("one", "else/where"):
            a_library(tmp_path / place / "my_lib")
            keys.append(key(write(tmp_path / place / "pylock.toml", text)))
        assert keys[0] == keys[1]
        write(tmp_path / "one" / "my_lib" / "src" / "my_lib" / "__init__.py", "ANSWER = 43\n")
        assert key(tmp_path / "one" / "pylock.toml") != keys[0]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[tool]\n", r"is no pylock\.toml of version 1\.x"),
            ('lock-version = "2.0"\npackages = []\n', r"is no pylock\.toml of version 1\.x"),
            (
                'lock-version = "1.0"\n[[packages]]\nname = "x"\narchive = {url = "https://a:hunter2@b.c/x.zip"}\n',
                "holds a credential",
            ),
        ],
    )
    def test_what_is_no_lock_is_refused(self, text: str, says: str, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgumentError, match=says) as caught:
            key(write(tmp_path / "pylock.toml", text))
        assert "hunter2" not in str(caught.value)

    def test_extras_that_were_not_locked_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "pylock.toml", 'lock-version = "1.0"\nextras = ["fast"]\npackages = []\n')
        with pytest.raises(InvalidArgumentError, match=r"was locked without the extras \['slow'\]"):
            key(path, extras=["slow"])


class TestLocalProjects:
    def test_content_is_the_key_wherever_it_lies_and_however_it_is_named(self, tmp_path: Path, library: Path) -> None:
        elsewhere = shutil.copytree(library, tmp_path / "else" / "where")
        listed = VenvEnvironment(["./my_lib", "six"], base_dir=tmp_path).key
        assert VenvEnvironment([str(elsewhere), "six"]).key == listed
        assert VenvEnvironment(["-e ./my_lib", "six"], base_dir=tmp_path).key == listed
        assert key(write(tmp_path / "else" / "requirements.txt", "six\n-e ../my_lib/\n")) == listed

    def test_any_source_file_changes_the_key_and_what_tools_leave_does_not(self, tmp_path: Path, library: Path) -> None:
        environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
        before = environment.key
        for left in (".git/HEAD", "build/lib/x.py", "dist/a.whl", ".venv/x", "src/my_lib/__pycache__/a.pyc",
                     "src/my_lib.egg-info/PKG-INFO"):  # fmt: skip
            write(library / left, "x")
        assert environment.key == before
        write(library / "src" / "my_lib" / "build" / "data.txt", "x")
        assert environment.key != before

    def test_projects_that_a_project_names_by_path_count_too(self, tmp_path: Path) -> None:
        more = 'dependencies = ["other-lib"]\n[tool.uv.sources]\nother-lib = { path = "../other" }\n'
        a_library(tmp_path / "my_lib", more=more)
        other = a_library(tmp_path / "other", name="other-lib")
        environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path)
        before = environment.key
        write(other / "src" / "other_lib" / "__init__.py", "ANSWER = 43\n")
        assert environment.key != before

    def test_relative_paths_start_where_the_wish_is_written(self, tmp_path: Path, library: Path) -> None:
        code = (
            "from airflow_provider_sparkdeps.environments import VenvEnvironment\n"
            "key = VenvEnvironment(['./my_lib']).key"
        )
        dag = write(tmp_path / "dag.py", code)
        names: dict[str, object] = {"__file__": str(dag), "__name__": "dag"}
        exec(compile(code, dag, "exec"), names)
        assert names["key"] == VenvEnvironment([str(library)]).key

    @pytest.mark.parametrize("path", ["./nothing", "./folder", "./file.txt"])
    def test_what_cannot_be_installed_is_refused_when_it_is_read(self, path: str, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        write(tmp_path / "file.txt", "x")
        environment = VenvEnvironment([path], base_dir=tmp_path)
        with pytest.raises(
            InvalidArgumentError, match=r"has no pyproject\.toml|is neither a project's directory nor a wheel"
        ):
            _ = environment.key


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "uv.lock", "pylock.toml"])
def test_a_file_that_is_not_there_is_told_when_it_is_needed(name: str, tmp_path: Path) -> None:
    environment = VenvEnvironment.from_file(tmp_path / name)
    for needs in (lambda: environment.key, lambda: build_nothing(environment, tmp_path)):
        with pytest.raises(
            InvalidArgumentError, match=r"can't be read: No such file or directory\. Write its path relative"
        ):
            needs()


def build_nothing(environment: VenvEnvironment, tmp_path: Path) -> None:
    build(environment, tmp_path / "prefix")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VenvEnvironment(["six"], file="requirements.txt"), "requirements and file exclude each other"),
        (lambda: VenvEnvironment(["six"], extras=["fast"]), "extras and groups need a file to select from"),
        (lambda: VenvEnvironment.from_file(""), "is not a path"),
        (lambda: VenvEnvironment.from_file(42), "is not a path"),  # type: ignore[arg-type]
        (lambda: VenvEnvironment.from_file("p.toml", extras="fast"), r"Write extras=\['scoring'\]"),
        (lambda: VenvEnvironment(["six"], index_conn_id=""), "is not a connection ID"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        make()


def test_what_goes_into_a_manifest_has_no_path_of_this_machine(tmp_path: Path, library: Path) -> None:
    path = write(tmp_path / "requirements.txt", "six\n./my_lib\n")
    for environment in (
        VenvEnvironment.from_file(path, index_conn_id="ours"),
        VenvEnvironment.from_prefix(tmp_path / "venv", python="3.12"),
        VenvEnvironment([str(library), "six"]),
        VenvEnvironment(["./my_lib"], base_dir=tmp_path),
    ):
        assert str(tmp_path) not in json.dumps(environment.to_dict()) + environment.title


def test_a_wish_of_a_file_survives_pickle_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "requirements.txt", "six\n")
    environment = VenvEnvironment.from_file("requirements.txt", base_dir=tmp_path, bundle_python=False)
    assert pickle.loads(pickle.dumps(environment)) == environment
    # What travels names the file only: it is looked for where the data is read.
    copy = Environment.from_dict({**json.loads(json.dumps(environment.to_dict())), "base_dir": str(tmp_path)})
    assert copy.key == environment.key
