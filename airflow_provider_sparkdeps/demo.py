"""The demo: the quickstart DAG on a local Airflow and an embedded Spark cluster, with its progress and a summary."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow
from airflow_provider_sparkdeps.spark.embedded.java import find_java

DAG_ID = "example_sparkdeps_quickstart"
MASTER = "local-cluster[2,1,1024]"
_REPORTED_STATES = ("running", "deferred", "success", "failed", "upstream_failed", "up_for_retry", "skipped")


def run_demo(home: Path, *, as_json: bool = False) -> int:
    """Run the quickstart DAG with a real scheduler, and print its progress and a summary.

    :param home: directory that is kept between runs, with Airflow's files and the archive store.
    :param as_json: end with the report of the DAG run as one line of JSON, instead of the summary.
    :return: 0 if the DAG run succeeded, else 1.
    :raises SparkDepsError: if Airflow does not start, no Java is found, or the run takes too long.
    """
    started = time.time()

    def say(text: str, *, at: float | None = None) -> None:
        print(f"[{(at or time.time()) - started:5.1f} s] {text}", flush=True)

    def on_task(task: str, state: str, _: float) -> None:
        if state in _REPORTED_STATES:
            say(f"{task}: {state}")

    dags = example_dags()
    say(f"Starting a local Airflow in {home}. Spark will run on Java {find_java().release}.")
    connections = {"sparkdeps_default": {"conn_type": "sparkdeps", "host": MASTER}}
    with LocalAirflow(home, dags=dags, connections=connections) as airflow:
        say(f"Airflow is ready. Running the DAG {DAG_ID} on {MASTER}.")
        report = airflow.run(DAG_ID, on_task=on_task)
        say(f"The DAG run ended: {report.state}. The logs of its tasks:")
    for task, log in report.logs.items():
        for at, line in _log_lines(log):
            say(f"{task:>6} | {line}", at=at)
    print(json.dumps(_as_dict(report)) if as_json else _summary(report, dags / f"{DAG_ID}.py", home), flush=True)
    return 0 if report.state == "success" else 1


def example_dags() -> Path:
    """Return the directory of the example DAGs: in the package if it was installed from a wheel, else next to it.

    :raises SparkDepsError: if it is in neither place.
    """
    package = Path(__file__).parent
    for parent in (package, package.parent):
        if (parent / "example_dags" / f"{DAG_ID}.py").is_file():
            return parent / "example_dags"
    raise SparkDepsError(
        f"Could not find the example DAGs: {package}/example_dags is missing. Install the package again."
    )


def _log_lines(log: str) -> Iterator[tuple[float, str]]:
    """Yield what this package and the DAG wrote to a task's log, and errors, each with seconds since the epoch."""
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


def _summary(report: DagRunReport, file: Path, home: Path) -> str:
    store = home / "sparkdeps" / "archives"
    command = _shown(Path(sys.executable).parent / "sparkdeps")
    failed = [task for task, state in report.tasks.items() if state not in ("success", "skipped")]
    ended = f"took {report.seconds:.0f} s. Its UDFs ran on two Spark executors."
    outcome = f"failed in {', '.join(failed)}; see its log above." if failed else ended
    lines = ["", f"What ran     {file.name} {outcome}"]
    next_steps = [f"{_shown(file)}  is the DAG: copy it and change it"]
    if archive := report.xcom.get("build", {}).get("return_value"):
        packages = ", ".join(f"{name} {version}" for name, version in archive["packages"].items())
        lines += [
            f"The archive  {_shown(store / archive['key'] / archive['payload'])}",
            f"             {packages} on Python {archive['python']}, {archive['size'] / 1e6:.0f} MB",
        ]
        next_steps += [
            f"{command} demo  runs it again, with the archive that is there now",
            f"{command} show --store {_shown(store)} {archive['key'][:8]}  shows what the archive contains",
        ]
    return "\n".join([*lines, *(f"{('' if index else 'Try next'):12} {step}" for index, step in enumerate(next_steps))])


def _shown(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it."""
    path, here = path.absolute(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _as_dict(report: DagRunReport) -> dict[str, Any]:
    return {
        "dag": report.dag_id,
        "state": report.state,
        "seconds": round(report.seconds, 1),
        "tasks": report.tasks,
        "xcom": report.xcom,
    }
