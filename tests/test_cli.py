"""The `sparkdeps` command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.cli import main


def test_what_is_built_is_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path)]
    assert main(["build", *store, "six==1.16.0"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["packages"]["six"] == "1.16.0"
    assert main(["list", *store]) == 0
    assert built["key"][:12] in capsys.readouterr().out
    assert main(["show", *store, "--json", built["key"][:8]]) == 0
    assert json.loads(capsys.readouterr().out) == built
    assert main(["show", *store, built["key"][:8]]) == 0
    shown = capsys.readouterr().out
    for part in (
        "six     1.16.0",
        "six==1.16.0",
        "bundled",
        built["platform"],
        "largest:   six 0.0 MB",
        built["sha256"],
    ):
        assert part.replace("six     ", "six  ") in shown, shown


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["show", "abc"], "0 archives have a key that starts with 'abc'"),
        (["build", "not a requirement"], "not a requirement"),
        (["build", "sparkdeps-no-such-package"], "sparkdeps-no-such-package was not found"),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(
    words: list[str], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = words
    assert main([command, "--store", str(tmp_path), *rest]) == 1
    error = capsys.readouterr().err
    assert "sparkdeps: " in error
    assert fault in error
    assert "Traceback" not in error
