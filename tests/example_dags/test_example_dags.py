"""The example DAGs, run as users run them."""

from __future__ import annotations

import time

from airflow_provider_sparkdeps.local_airflow import LocalAirflow


def test_the_quickstart_builds_waits_counts_and_reports(airflow: LocalAirflow) -> None:
    report = airflow.run("sparkdeps_quickstart")
    assert report.state == "success", report.logs.get("spell")
    assert report.xcom["wait"]["return_value"] == report.xcom["build"]["return_value"]
    assert report.xcom["spell"]["accumulators"] == {"bad_rows": 2}
    assert [row["words"] for row in report.xcom["spell"]["return_value"]] == [
        "1.2 million",
        "42",
        None,
        "3.0 billion",
        None,
    ]
    assert "5 rows, accumulators: {'bad_rows': 2}" in report.logs["report"]


def test_a_nightly_refresh_tells_of_a_new_archive_and_is_silent_about_an_unchanged_one(airflow: LocalAirflow) -> None:
    follower = "/api/v2/dags/sparkdeps_on_new_archive"
    airflow._api.call("PATCH", follower, {"is_paused": False})
    first = airflow.run("sparkdeps_nightly")
    assert first.state == "success", first.logs
    deadline = time.monotonic() + 60
    while not (runs := airflow._api.call("GET", f"{follower}/dagRuns")["dag_runs"]) or runs[0]["state"] != "success":
        assert time.monotonic() < deadline, runs
        time.sleep(0.5)
    noted = f"{follower}/dagRuns/{runs[0]['dag_run_id']}/taskInstances/note/xcomEntries/return_value"
    digest = first.xcom["refresh"]["return_value"]["sha256"]
    assert digest in str(airflow._api.call("GET", noted)["value"])
    second = airflow.run("sparkdeps_nightly")
    assert (second.tasks["refresh"], second.tasks["announce"]) == ("success", "skipped")
    assert second.xcom["refresh"]["published"] is False
    assert second.xcom["refresh"]["return_value"] == first.xcom["refresh"]["return_value"]
