"""`@task.spark_connect` under Airflow's own task runner, against a real server with two executors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.local_airflow import DagRunReport, DagRunTimeoutError, LocalAirflow
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer


def test_functions_of_dag_files_and_their_neighbours_travel_by_value(airflow: LocalAirflow) -> None:
    report = airflow.run("by_value")
    assert report.state == "success", report.logs["run"]
    assert report.xcom["run"]["return_value"] == [["ABAB!", "abab", "!BA", "ab."]]


def test_a_dag_can_be_tried_without_a_scheduler(server: EmbeddedServer, tmp_path: Path) -> None:
    connection = {"conn_type": "sparkdeps", "host": server.host, "port": server.port}
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parents[1] / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_SPARKDEPS_DEFAULT": json.dumps(connection),
    }
    for command in (["db", "migrate"], ["dags", "test", "by_value"]):
        run = subprocess.run(
            [sys.executable, "-m", "airflow", *command], env=environ, capture_output=True, text=True, timeout=180
        )
        assert run.returncode == 0, run.stdout + run.stderr
    assert "state=success" in run.stdout + run.stderr


def test_tasks_at_the_same_time_each_see_their_own_packages(airflow: LocalAirflow, tmp_path: Path) -> None:
    report = airflow.run("two_versions", conf={"meeting": str(tmp_path)})
    assert report.state == "success", report.logs
    for task, version in (("old", "1.15.0"), ("new", "1.16.0")):
        digest = json.dumps(report.logs[task]).split("Attached environment ")[1][:12]
        seen = report.xcom[task]["return_value"]
        assert len(seen) == 2, "one line for each executor"
        for line in seen:
            found, _, prefix = line.partition(" ")
            assert found == version
            assert prefix.endswith(f"/sparkdeps/{digest}")


def test_accumulators_go_on_from_task_to_task(airflow: LocalAirflow) -> None:
    report = airflow.run("counting")
    assert report.state == "success", report.logs
    others = {
        "digits": {"kind": "set", "value": ["start", *range(10)], "limit": 20},
        "largest": {"kind": "max", "value": 999},
    }
    assert [report.xcom[task]["accumulators"] for task in ("first", "second", "third")] == [
        {"rows": 1000, **others},
        {"rows": 1010, **others},
        {"rows": 1011, **others},
    ]
    assert report.xcom["first"]["return_value"] == "counting 1000"


def test_a_killed_task_interrupts_what_spark_does_for_it(airflow: LocalAirflow, tmp_path: Path) -> None:
    marker = tmp_path / "running"
    with pytest.raises(DagRunTimeoutError):
        airflow.run("slow", conf={"marker": str(marker)}, timeout=25)
    worker = Path(f"/proc/{marker.read_text()}")
    deadline = time.monotonic() + 15
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not worker.exists(), "the Python worker on the executor goes on"


@pytest.fixture(scope="session")
def failed(airflow: LocalAirflow) -> DagRunReport:
    return airflow.run("failing")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("returns_a_frame", "returned a DataFrame, which can't be used after its session is closed"),
        ("returns_an_object", "returned a Local that can't be pushed to XCom"),
        ("unreachable", "no server is listening there"),
        ("wrong_token", "rejected the bearer token"),
        ("not_a_number", "Use an int or a float"),
        ("build", "sparkdeps-no-such-package was not found in the package registry"),
        ("wait", "sparkdeps-no-such-package was not found in the package registry"),
        ("poke", "sparkdeps-no-such-package was not found in the package registry"),
    ],
)
def test_an_error_is_explained_in_the_log_of_the_task(failed: DagRunReport, task: str, words: str) -> None:
    assert failed.tasks[task] == "failed"
    assert words in failed.logs[task]
    assert "return_value" not in failed.xcom.get(task, {})


def test_a_token_is_in_no_log(failed: DagRunReport, airflow: LocalAirflow, tokens: tuple[str, str]) -> None:
    assert failed.tasks["right_token"] == "success"
    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    texts = {path: path.read_bytes() for path in files}
    assert any(b"rejected the bearer token" in text for text in texts.values())
    for token in tokens:
        assert [path for path, text in texts.items() if token.encode() in text] == []


def test_pitfalls_of_udfs_are_reported(airflow: LocalAirflow) -> None:
    report = airflow.run("pitfalls")
    logs = report.logs
    assert "A function could not be sent to executors: `LOCK` in guarded is a lock" in logs["refused"]
    warning = logs["missing"].index("`by_value_helpers` in shout is imported, and executors don't have it")
    assert warning < logs["missing"].index("the callable was called")
    for task in ("refused", "missing"):
        assert report.tasks[task] == "failed", logs[task]
    assert report.xcom["warned"]["return_value"] == [900_000, 900_001], logs["warned"]
    assert (
        "Function 'lengths' adds 4.4 MB to every query that uses it. The largest variable of 'lengths' is `TABLE`"
        in logs["warned"]
    )
    assert report.tasks["too_large"] == "failed"
    assert "too large to send: 70.0 MB pickled is over the limit" in logs["too_large"]
    assert "is `TOO_LARGE`" in logs["too_large"]
    assert report.xcom["accepted"]["return_value"] == ["AB!"], logs["accepted"]
    for words in ("travel", "executors"):
        assert words not in logs["accepted"]
