"""The demo: the quickstart DAG on a local Airflow and an embedded Spark cluster, told step by step."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps import example_dags
from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow
from airflow_provider_sparkdeps.spark.java import find_java

DAG_ID = "sparkdeps_quickstart"
MASTER = "local-cluster[2,1,1024]"


def run_demo(home: Path) -> int:
    """Run the quickstart through Airflow's own task runner, and print what it did.

    :param home: kept between runs: Airflow's files, and the archives that a second run finds there.
    :return: 0 if the DAG run succeeded; the last line printed is its report as JSON.
    """
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)

    java = find_java()
    say(f"Starting Airflow (scheduler, LocalExecutor, triggerer) in {home}; Spark will run on Java {java.release}")
    connection = {"conn_type": "sparkdeps", "host": MASTER}
    with LocalAirflow(
        home, dags=Path(example_dags.__path__[0]), connections={"sparkdeps_default": connection}
    ) as airflow:
        say(f"Airflow is ready; running the DAG {DAG_ID} against {MASTER}")
        report = airflow.run(DAG_ID, on_task=lambda task, state, _: say(f"  {task}: {state}"))
        say(f"The run is over: {report.state}")
    for task, log in report.logs.items():
        for line in _told(log):
            print(f"          {task}: {line}")
    print(_as_json(report), flush=True)
    return 0 if report.state == "success" else 1


def _told(log: str) -> Iterator[str]:
    """What this package and the DAG's own code wrote to a task's log, and what failed."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        mine = __package__ in entry.get("logger", "") or entry.get("logger") == "task.stdout"
        if mine or entry.get("level") == "error":
            yield f"{entry['event']}{_cause(entry)}"


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
