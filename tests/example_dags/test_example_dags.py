"""Each example DAG runs under the real scheduler, on two executors, and shows what it is there for."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

from airflow_provider_sparkdeps.demo import _summary, example_dags
from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow

from ..support.conda_channel import make_channel

EXAMPLES = Path(__file__).parents[2] / "example_dags"


def run(airflow: LocalAirflow, name: str) -> DagRunReport:
    report = airflow.run(f"example_sparkdeps_{name}")
    assert report.state == "success", {task: report.logs.get(task) for task in report.tasks}
    return report


def test_each_example_has_a_test_here() -> None:
    tested = re.findall(r'run\(airflow, "(\w+)"\)', Path(__file__).read_text())
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {f"example_sparkdeps_{name}" for name in tested}
    assert example_dags() == EXAMPLES


def test_the_quickstart_builds_waits_counts_and_reports(airflow: LocalAirflow) -> None:
    report = run(airflow, "quickstart")
    assert report.xcom["wait"]["return_value"] == report.xcom["build"]["return_value"]
    assert report.xcom["spell"]["accumulators"] == {"bad_rows": 2}
    words = [row["words"] for row in report.xcom["spell"]["return_value"]]
    assert words == ["1.2 million", "42", None, "3.0 billion", None]
    assert "5 rows, accumulators: {'bad_rows': 2}" in report.logs["report"]
    summary = _summary(report, EXAMPLES / "example_sparkdeps_quickstart.py", airflow.home)
    archive = report.xcom["build"]["return_value"]
    assert "example_sparkdeps_quickstart.py took" in summary
    assert f"humanize {archive['packages']['humanize']}" in summary
    assert f"sparkdeps show --store {airflow.home}/sparkdeps/archives {archive['key'][:8]} " in summary
    [payload] = (airflow.home / "sparkdeps" / "archives" / archive["key"]).glob("*.payload")
    assert f"The archive  {payload}" in summary
    failed = _summary(replace(report, tasks={**report.tasks, "spell": "failed"}), EXAMPLES / "a.py", airflow.home)
    assert "What ran     a.py failed in spell; see its log above.\n" in failed


def test_packages_of_a_conda_channel_run_on_executors(airflow: LocalAirflow) -> None:
    make_channel(airflow.home / "channel")
    report = run(airflow, "conda")
    [version] = report.xcom["versions"]["return_value"]
    assert version.startswith("cheese 2.0 in ")


def test_a_pex_runs_on_executors(airflow: LocalAirflow) -> None:
    report = run(airflow, "pex")
    assert report.xcom["sizes"]["return_value"] == ["999 Bytes", "5.0 MB", "3.0 GB"]


def test_a_project_is_installed_as_its_lock_says(airflow: LocalAirflow) -> None:
    report = run(airflow, "locked_project")
    assert report.xcom["product_keys"]["return_value"] == ["apple-pie", "creme-brulee"]


def test_a_nightly_refresh_announces_a_new_archive_and_skips_an_unchanged_one(airflow: LocalAirflow) -> None:
    follower = "/api/v2/dags/example_sparkdeps_on_new_archive"
    airflow._api.call("PATCH", follower, {"is_paused": False})
    first = run(airflow, "nightly_refresh")
    deadline = time.monotonic() + 60
    while not (runs := airflow._api.call("GET", f"{follower}/dagRuns")["dag_runs"]) or runs[0]["state"] != "success":
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)
    noted = f"{follower}/dagRuns/{runs[0]['dag_run_id']}/taskInstances/note/xcomEntries/return_value"
    digest = first.xcom["refresh"]["return_value"]["sha256"]
    assert digest in str(airflow._api.call("GET", noted)["value"])
    second = run(airflow, "nightly_refresh")
    assert (second.tasks["refresh"], second.tasks["announce"]) == ("success", "skipped")
    assert second.xcom["refresh"]["published"] is False
    assert second.xcom["refresh"]["return_value"] == first.xcom["refresh"]["return_value"]


def test_mapped_tasks_share_a_session(airflow: LocalAirflow) -> None:
    report = run(airflow, "shared_session")
    assert report.xcom["report"]["return_value"] == ["mon: 35,200", "tue: 5,600"]
    assert report.tasks["close_spark_session"] == "success"


def test_accumulators_continue_in_a_downstream_task(airflow: LocalAirflow) -> None:
    report = run(airflow, "accumulators")
    assert (report.xcom["morning"]["return_value"], report.xcom["evening"]["return_value"]) == (1, 1)
    assert report.xcom["report"]["return_value"] == ["DE", "FR", "IT"]
    assert "5 rows; largest 250; bad codes {'??': 2, '-': 1}" in report.logs["report"]


def test_executors_read_a_broadcast_table(airflow: LocalAirflow) -> None:
    report = run(airflow, "broadcast")
    assert report.xcom["name_cities"]["return_value"] == ["city 7", "city 199999", "unknown"]


def test_a_cluster_reads_archives_from_the_store_itself(airflow: LocalAirflow) -> None:
    report = run(airflow, "by_reference")
    assert report.xcom["ordinals"]["return_value"] == ["1st", "2nd", "3rd"]
    assert "read by the cluster from file://" in report.logs["ordinals"]
