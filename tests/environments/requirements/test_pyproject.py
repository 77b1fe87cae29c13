"""pyproject.toml: what the key depends on, and which errors are raised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import PYPROJECT, key_of, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize(
    ("options", "requirements"),
    [
        ({}, ["six"]),
        ({"extras": ["fast"]}, ["six", "markupsafe"]),
        ({"extras": ["All"]}, ["six", "markupsafe", "tabulate"]),
        ({"groups": ["dev"]}, ["six", "toolz", "pycodestyle"]),
        ({"extras": ["fast"], "groups": ["lint"]}, ["six", "markupsafe", "pycodestyle"]),
    ],
)
def test_dependencies_extras_and_groups_have_the_key_of_a_list_of_them(
    options: dict[str, list[str]], requirements: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "pyproject.toml", PYPROJECT)
    assert key_of(path, **options) == VenvEnvironment(requirements).key


def test_what_is_not_a_dependency_does_not_change_the_key(tmp_path: Path) -> None:
    before = key_of(write(tmp_path / "pyproject.toml", PYPROJECT))
    changed = PYPROJECT.replace('version = "1"', 'version = "2"').replace("pycodestyle", "pyflakes")
    assert key_of(write(tmp_path / "pyproject.toml", changed)) == before
    assert key_of(write(tmp_path / "pyproject.toml", changed.replace('"six"', '"six<2"'))) != before


def test_sources_of_uv_are_used(tmp_path: Path, library: Path) -> None:
    text = (
        '[project]\nname = "app"\nversion = "1"\ndependencies = ["my-lib", "six"]\n'
        '[tool.uv.sources]\nmy_lib = { path = "my_lib", editable = true }\n'
    )
    path = write(tmp_path / "pyproject.toml", text)
    assert key_of(path) == VenvEnvironment(["./my_lib", "six"], base_dir=tmp_path).key
    git = text.replace('path = "my_lib", editable = true', 'git = "https://example.com/lib.git", tag = "v1"')
    assert key_of(write(path, git)) == VenvEnvironment(["my-lib @ git+https://example.com/lib.git@v1", "six"]).key
    with pytest.raises(InvalidArgumentError, match=r"source of 'my-lib' in \[tool\.uv\.sources\] needs a lock"):
        key_of(write(path, text.replace('path = "my_lib", editable = true', "workspace = true")))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[project\n", {}, "is not TOML"),
        ("project = 3", {}, "does not have the structure of its file type"),
        ('[project]\ndependencies = "six"', {}, r"dependencies is 'six', which is not a list\. Write \['six'\]"),
        (PYPROJECT, {"extras": ["slow"]}, r"no extra 'slow' in \[project\.optional-dependencies\], only: all, fast"),
        (PYPROJECT, {"groups": ["docs"]}, "no group 'docs' in"),
        (PYPROJECT.replace(">=3.9", "<3.9"), {}, rf'requires Python <3\.9, which excludes python="{OWN}"'),
        ('[project]\nname = "app"\n', {}, "has no dependencies"),
        (
            PYPROJECT.replace("pycodestyle", 'x"}, {include-group = "dev'),
            {"groups": ["dev"]},
            "is not TOML|includes itself",
        ),
        (
            PYPROJECT.replace('["pycodestyle"]', '[{include-group = "dev"}]'),
            {"groups": ["dev"]},
            "includes itself: dev -> lint -> dev",
        ),
    ],
)
def test_an_invalid_file_is_reported(text: str, options: dict[str, list[str]], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", text)
    with pytest.raises(InvalidArgumentError, match=message):
        key_of(path, **options)
