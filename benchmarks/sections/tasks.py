"""Twenty mapped Airflow tasks with one environment, against the same twenty with none, and by the recipe."""

from __future__ import annotations

import os
from collections.abc import Callable

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import SparkDepsError
from airflow_provider_sparkdeps.local_airflow import LocalAirflow
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from benchmarks import recipe
from benchmarks.measure import Claim, Outcome, in_turns, tell
from benchmarks.setting import MASTER, PACKAGES, ROOT, plain_venv, room

TASKS = int(os.environ.get("BENCH_TASKS", "20"))
# It takes minutes each time, and what it comes to is far from any bound.
_ROUNDS_OF_RECIPE = 1


def run() -> Outcome:
    """Run the DAGs on a real Airflow; the archive is in its store, as it is from the second run on."""
    with room() as directory:
        tell("making an archive, and a virtualenv for venv-pack")
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
                    tell(f"the recipe's tasks did not come to an end: {error}")
    return outcome(figures)


def outcome(figures: dict[str, list[float]]) -> Outcome:
    """Say what the figures make; those of the recipe, which strains the machine most, may be missing."""
    claims = [Claim(f"{TASKS} mapped tasks, against none with an environment", "ours", "none", at_most=1.3)]
    if "recipe" not in figures:
        return Outcome(figures, tuple(claims), notes=("the recipe's tasks did not come to an end.",))
    claims.append(Claim(f"{TASKS} mapped tasks, against the recipe", "ours", "recipe"))
    return Outcome(figures, tuple(claims), notes=("the recipe ran once only, after the others.",))


def _runs(airflow: LocalAirflow, dag_id: str) -> Callable[[], float]:
    def measure() -> float:
        report = airflow.run(dag_id, timeout=1800)
        if report.state != "success":
            failed = next((log for task, log in report.logs.items() if report.tasks[task] != "success"), "")
            raise SystemExit(f"{dag_id}: {report.state}\n{failed[-3000:]}")
        return report.seconds

    return measure
