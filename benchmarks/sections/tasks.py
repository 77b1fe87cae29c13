"""Twenty mapped Airflow tasks with one environment, compared with no environment and with the recipe."""

from __future__ import annotations

import os
from collections.abc import Callable

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import LocalAirflow
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from benchmarks import recipe
from benchmarks.measure import Claim, Outcome, in_turns, log
from benchmarks.setting import MASTER, PACKAGES, ROOT, plain_venv, work_directory

TASKS = int(os.environ.get("BENCH_TASKS", "20"))
# Each round takes minutes, and the result is far from any bound.
_ROUNDS_OF_RECIPE = 1


def run() -> Outcome:
    """Run the DAGs on a real Airflow with the archive in its store, as in every run but the first."""
    with work_directory() as directory:
        log("building an archive, and a virtualenv for venv-pack")
        ArchiveStore(directory / "store").build(VenvEnvironment(PACKAGES), timeout=600, progress=lambda _: None)
        recipe.pack(plain_venv(directory / "venv"), directory)
        environ = {
            "AIRFLOW__SPARKDEPS__ARCHIVE_STORE": str(directory / "store"),
            "BENCH_ARCHIVE": str(directory / recipe.NAME),
            "BENCH_PACKAGES": " ".join(PACKAGES),
            "BENCH_TASKS": str(TASKS),
            "PYTHONPATH": str(ROOT),
        }
        with EmbeddedServer(MASTER) as server:
            connections = {"sparkdeps_default": {"conn_type": "sparkdeps", "host": server.host, "port": server.port}}
            dags = ROOT / "benchmarks" / "dags"
            with LocalAirflow(directory / "airflow", dags=dags, connections=connections, environ=environ) as airflow:
                figures = in_turns({"none": _runs(airflow, "none"), "ours": _runs(airflow, "ours")})
                try:
                    figures |= in_turns({"recipe": _runs(airflow, "recipe")}, rounds=_ROUNDS_OF_RECIPE, warm_up=0)
                except SparkDepsError as error:
                    log(f"the tasks of the recipe did not finish: {error}")
    return outcome(figures)


def outcome(figures: dict[str, list[float]]) -> Outcome:
    """Return the outcome; the figures of the recipe, which needs most of the machine, may be missing."""
    claims = [Claim(f"{TASKS} mapped tasks, compared with no environment", "ours", "none", at_most=1.3)]
    if "recipe" not in figures:
        return Outcome(figures, tuple(claims), notes=("the tasks of the recipe did not finish.",))
    claims.append(Claim(f"{TASKS} mapped tasks, compared with the recipe", "ours", "recipe"))
    return Outcome(figures, tuple(claims), notes=("the recipe ran only once, after the others.",))


def _runs(airflow: LocalAirflow, dag_id: str) -> Callable[[], float]:
    def measure() -> float:
        report = airflow.run(dag_id, timeout=1800)
        if report.state != "success":
            failed = next((log for task, log in report.logs.items() if report.tasks[task] != "success"), "")
            raise SystemExit(f"{dag_id}: {report.state}\n{failed[-3000:]}")
        return report.seconds

    return measure
