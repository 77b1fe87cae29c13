"""The demo: the quickstart DAG on a local Airflow and an embedded Spark cluster, told step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps import example_dags
from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow
from airflow_provider_sparkdeps.spark.embedded.java import find_java

DAG_ID = "sparkdeps_quickstart"
MASTER = "local-cluster[2,1,1024]"
_TOLD_STATES = ("running", "deferred", "success", "failed", "upstream_failed", "up_for_retry", "skipped")


def run_demo(home: Path) -> int:
    """Run the quickstart through Airflow's own task runner, and print what it did.

    :param home: kept between runs: Airflow's files, and the archives that a second run finds there.
    :return: 0 if the DAG run succeeded; the last line printed is its report as JSON.
    :raises SparkDepsError: Airflow does not start, there is no Java, or the run takes too long.
    """
    started = time.time()

    def say(text: str, *, at: float | None = None) -> None:
        print(f"[{(at or time.time()) - started:5.1f} s] {text}", flush=True)

    def tell(task: str, state: str, _: float) -> None:
        if state in _TOLD_STATES:
            say(f"{task}: {state}")

    say(f"Starting an Airflow of its own in {home}; Spark will run on Java {find_java().release}")
    connections = {"sparkdeps_default": {"conn_type": "sparkdeps", "host": MASTER}}
    with LocalAirflow(home, dags=Path(example_dags.__path__[0]), connections=connections) as airflow:
        say(f"Airflow is ready; running the DAG {DAG_ID} against {MASTER}")
        report = airflow.run(DAG_ID, on_task=tell)
        say(f"The DAG run is over: {report.state}. What its tasks logged:")
    for task, log in report.logs.items():
        for at, line in _told(log):
            say(f"{task:>6} | {line}", at=at)
    print(_as_json(report), flush=True)
    return 0 if report.state == "success" else 1


def _told(log: str) -> Iterator[tuple[float, str]]:
    """What this package and the DAG's own code wrote to a task's log, and what failed; with seconds since the epoch."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        logger = entry.get("logger", "")
        if __package__ in logger or logger == "task.stdout" or entry.get("level") == "error":
            yield datetime.fromisoformat(entry["timestamp"]).timestamp(), f"{entry['event']}{_cause(entry)}"


def _cause(entry: Mapping[str, Any]) -> str:
    return "".join(f": {error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail", ()))


def _as_json(report: DagRunReport) -> str:
    return json.dumps(
        {
            "dag": report.dag_id,
            "state": report.state,
            "seconds": round(report.seconds, 1),
            "tasks": report.tasks,
            "xcom": report.xcom,
        }
    )
