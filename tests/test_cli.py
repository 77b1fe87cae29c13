"""The `sparkdeps` command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.cli import main


def test_an_archive_is_built_listed_described_and_checked_against_a_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ["--store", str(tmp_path)]
    assert main(["build", *store, "six==1.16.0"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["packages"]["six"] == "1.16.0"
    assert main(["list", *store]) == 0
    assert built["key"][:12] in capsys.readouterr().out
    assert main(["show", *store, "--json", built["key"][:8]]) == 0
    assert json.loads(capsys.readouterr().out) == built
    assert main(["show", *store, built["key"][:8]]) == 0
    description = capsys.readouterr().out
    for part in ("six  1.16.0", "six==1.16.0", "bundled", built["platform"], "largest:   six 0.0 MB", built["sha256"]):
        assert part in description, description
    assert built["contents"]["modules"] == ["six"]
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (jobs / "cli_job.py").write_text(
        "import six\nimport pandas\n\ndef score(x):\n    return six.text_type(pandas, x)\n"
    )
    monkeypatch.chdir(jobs)
    monkeypatch.setattr(sys, "path", [*sys.path])
    command = ["closure", "cli_job:score", *store, "--archive", built["key"][:8]]
    assert main(command) == 1
    report = capsys.readouterr().out
    assert "six: found" in report
    assert "error: `pandas` in score is a module, which executors don't have. Add pandas" in report
    assert main([*command, "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["name"] == "pandas"
    assert main([*command, "--py-file", "x/pandas.py"]) == 0
    assert main(["closure", "cli_job:score"]) == 0
    del sys.modules["cli_job"]


def test_an_empty_store_and_a_reader_that_stops_are_no_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--store", str(tmp_path / "lost")]) == 0
    assert "there are no archives in" in capsys.readouterr().err
    command = [sys.executable, "-m", "airflow_provider_sparkdeps.cli", "closure", "textwrap:dedent"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert not done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["show", "abc"], "0 archives have a key that starts with 'abc'"),
        (["build", "not a requirement"], "not a requirement"),
        (["build", "sparkdeps-no-such-package"], "sparkdeps-no-such-package was not found"),
    ],
)
def test_an_error_is_a_message_and_an_exit_code(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *rest = arguments
    assert main([command, "--store", str(tmp_path), *rest]) == 1
    error = capsys.readouterr().err
    assert "sparkdeps: " in error
    assert problem in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["json"], "it does not name a function. Write MODULE:FUNCTION"),
        (["no_such_module_here:f"], "No module named 'no_such_module_here'. Write"),
        (["json:nothing.here"], "module 'json' has no attribute 'nothing'. Write"),
        (["json:decoder"], "Could not inspect a module: it is not callable"),
        (["json:dumps", "--archive", "abc"], "--store and --archive must be used together"),
    ],
)
def test_a_function_that_cannot_be_checked_is_an_error(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["closure", *arguments]) == 1
    assert problem in capsys.readouterr().err
