"""Inline metadata of scripts (PEP 723): what the key depends on, and which errors are raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import make_library, write

SCRIPT = """#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.9"
# dependencies = ["six", "my-lib"]
# [tool.uv.sources]
# my-lib = { path = "my_lib" }
# ///
import six
"""


def test_the_key_depends_on_the_metadata_and_not_on_the_code(tmp_path: Path) -> None:
    make_library(tmp_path / "my_lib")
    environment = VenvEnvironment.from_script("job.py", base_dir=tmp_path)
    write(tmp_path / "job.py", SCRIPT)
    before = environment.key
    write(tmp_path / "job.py", SCRIPT.replace("import six", "import os"))
    assert environment.key == before
    write(tmp_path / "job.py", SCRIPT.replace('"six"', '"six<2"'))
    assert environment.key != before
    write(tmp_path / "job.py", SCRIPT)
    make_library(tmp_path / "my_lib", answer=43)
    assert environment.key != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import six\n", "has no blocks of inline metadata"),
        (SCRIPT + SCRIPT, "has 2 blocks"),
        ("# /// script\n# dependencies = [\n# ///\n", "is not TOML"),
        ('# /// script\n# requires-python = ">=3.9"\n# ///\n', "has no dependencies"),
        ("# /// script\n# dependencies = ['x @ https://me:hunter2@h/x.whl']\n# ///\n", "contains credentials"),
    ],
)
def test_invalid_metadata_is_refused_when_the_key_is_asked_for(text: str, message: str, tmp_path: Path) -> None:
    environment = VenvEnvironment.from_script(write(tmp_path / "job.py", text))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        _ = environment.key
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_block_ends_with_the_last_end_of_its_comment(end: str, tmp_path: Path) -> None:
    text = '# /// script\n# dependencies = ["six"]\n#\n# a = """\n# ///\n# """\n# ///\n#x\n# /// other\n# ///\n'
    (tmp_path / "job.py").write_bytes(text.replace("\n", end).encode())
    assert VenvEnvironment.from_script(tmp_path / "job.py").key


def test_a_name_that_is_not_that_of_a_script_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'job\.txt' is not the name of a Python file"):
        VenvEnvironment.from_script("job.txt")
