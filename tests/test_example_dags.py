"""The example DAGs, run as users run them."""

from __future__ import annotations

from airflow_provider_sparkdeps.local_airflow import LocalAirflow


def test_the_quickstart_builds_waits_counts_and_reports(airflow: LocalAirflow) -> None:
    report = airflow.run("sparkdeps_quickstart")
    assert report.state == "success", report.logs
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
