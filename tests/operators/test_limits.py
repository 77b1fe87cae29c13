"""An accumulator that passes its limit does not fail a task whose query has written its rows."""

from __future__ import annotations

from airflow_provider_sparkdeps.local_airflow import LocalAirflow


def test_the_rows_of_a_task_that_passes_a_limit_are_written_once(airflow: LocalAirflow) -> None:
    report = airflow.run("limits")
    log = report.logs["over_the_limit"]
    assert report.xcom["over_the_limit"]["return_value"] == [1000, 300, 700], log
    assert report.xcom["over_the_limit"]["accumulators"]["codes"]["dropped"] == 700
    assert "Accumulator 'codes' is incomplete, 700 are missing: it has more than 300 different values" in log
