"""uv.lock and pylock.toml: what the key depends on, and which errors are raised."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import PYPROJECT, key_of, make_library, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("locked")
    make_library(root / "libs" / "my_lib")
    text = PYPROJECT.replace('["six"]', '["six", "my-lib"]')
    write(root / "pyproject.toml", text + '[tool.uv.sources]\nmy-lib = { path = "libs/my_lib", editable = true }\n')
    subprocess.run([uv_binary(), "lock", "--quiet", "--python", sys.executable], cwd=root, check=True)
    return root


@pytest.fixture
def copy(locked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(locked, tmp_path / "app"))


def test_a_checkout_elsewhere_has_the_same_key(locked: Path, copy: Path) -> None:
    assert key_of(locked / "pyproject.toml") == key_of(copy / "pyproject.toml") == key_of(copy / "uv.lock")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("uv.lock", 'version = "1.17.0"', 'version = "1.16.0"'),
        ("libs/my_lib/src/my_lib/__init__.py", "42", "43"),
    ],
)
def test_the_key_depends_on_what_is_locked(file: str, old: str, new: str, copy: Path) -> None:
    before = key_of(copy / "uv.lock")
    assert key_of(copy / "uv.lock", extras=["fast"]) != before
    assert key_of(copy / "uv.lock", groups=["dev"]) != before
    assert old in (copy / file).read_text()
    write(copy / file, (copy / file).read_text().replace(old, new))
    assert key_of(copy / "uv.lock") != before


def test_comments_and_the_tool_of_a_pylock_do_not_change_the_key(tmp_path: Path) -> None:
    text = 'lock-version = "1.0"\ncreated-by = "{by}"\n'
    one = '[[packages]]\nname = "six"\nversion = "1.17.0"\nmarker = "python_version > \'3\'"\n'
    two = '[[packages]]\nname = "tabulate"\nversion = "0.9.0"\n'
    before = key_of(write(tmp_path / "a/pylock.toml", text.format(by="uv") + one + two))
    assert key_of(write(tmp_path / "b/pylock.toml", text.format(by="pip") + one + "# why\n" + two)) == before
    assert key_of(write(tmp_path / "c/pylock.toml", text.format(by="uv") + one + two.replace("9", "10"))) != before


def test_local_projects_of_a_pylock_count_by_their_contents(tmp_path: Path) -> None:
    text = 'lock-version = "1.0"\n[[packages]]\nname = "my-lib"\ndirectory = { path = "my_lib", editable = true }\n'
    keys = []
    for place in ("one", "else/where"):
        make_library(tmp_path / place / "my_lib")
        keys.append(key_of(write(tmp_path / place / "pylock.toml", text)))
    assert keys[0] == keys[1]
    write(tmp_path / "one" / "my_lib" / "src" / "my_lib" / "__init__.py", "ANSWER = 43\n")
    assert key_of(tmp_path / "one" / "pylock.toml") != keys[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool]\n", r"is not a pylock\.toml of version 1\.x"),
        ('lock-version = "2.0"\npackages = []\n', r"is not a pylock\.toml of version 1\.x"),
        (
            'lock-version = "1.0"\n[[packages]]\nname = "x"\narchive = {url = "https://a:hunter2@b.c/x.zip"}\n',
            "contains credentials",
        ),
    ],
)
def test_a_file_that_is_not_a_valid_lock_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        key_of(write(tmp_path / "pylock.toml", text))
    assert "hunter2" not in str(caught.value)


def test_extras_that_were_not_locked_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "pylock.toml", 'lock-version = "1.0"\nextras = ["fast"]\npackages = []\n')
    with pytest.raises(InvalidArgumentError, match=r"was locked without the extras \['slow'\]"):
        key_of(path, extras=["slow"])
