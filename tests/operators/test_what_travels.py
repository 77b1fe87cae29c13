"""Code that users write works on executors under the real operator, and what can't is explained."""

from __future__ import annotations

import pytest

from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow


@pytest.fixture(scope="module")
def report(airflow: LocalAirflow) -> DagRunReport:
    return airflow.run("travelling")


def test_objects_of_all_kinds_of_classes_and_cached_functions_travel(report: DagRunReport) -> None:
    assert report.tasks["objects"] == "success", report.logs["objects"]
    assert report.xcom["objects"]["return_value"] == ["9 square 19 7 handle client 13", "7!"]


def test_the_results_of_a_mapped_task_travel(report: DagRunReport) -> None:
    assert report.tasks["upstream_list"] == "success", report.logs["upstream_list"]
    assert report.xcom["upstream_list"]["return_value"] == [6]


def test_members_of_enums_and_nulls_are_counted_by_their_value(report: DagRunReport) -> None:
    assert report.tasks["values"] == "success", report.logs["values"]
    counted = report.xcom["values"]["accumulators"]
    assert counted["reasons"]["value"] == {"bad": 5, "worse": 5}
    assert counted["largest"]["value"] == 8
    assert report.xcom["values"]["return_value"] == 2


def test_a_loop_variable_that_functions_share_is_a_warning(report: DagRunReport) -> None:
    assert report.xcom["late_binding"]["return_value"] == [0, "b", "b", "c", "d"], report.logs["late_binding"]
    assert "`name` in <lambda> is set in a loop" in report.logs["late_binding"]
    assert "write `name=name` as its last parameter" in report.logs["late_binding"]
    assert "`other`" not in report.logs["late_binding"]


def test_a_function_that_is_not_known_before_is_explained_when_it_is_sent(report: DagRunReport) -> None:
    log = report.logs["explained"]
    assert "the callable was called" in log
    assert "A function could not be sent to executors: `Guard.lock` in foreach_func -> f -> Guard is a lock" in log


def test_results_that_only_spark_can_use_are_refused_with_a_remedy(report: DagRunReport) -> None:
    assert "returned a Row, which can't be pushed to XCom. Return `row.asDict()`" in report.logs["returns_a_row"]
    log = report.logs["returns_a_frame_in_a_dict"]
    assert "returned a DataFrame in a dict, which can't be used after its session is closed" in log


def test_partials_and_callable_objects_get_what_they_name(report: DagRunReport) -> None:
    assert report.xcom["partial"] == {"return_value": "hello 3 True", "accumulators": {"rows": 1}}, report.logs
    assert report.xcom["object"] == {"return_value": "called", "accumulators": {"rows": 3}}, report.logs["object"]


def test_environments_and_accumulators_may_be_templates(report: DagRunReport) -> None:
    assert report.xcom["in_template"]["return_value"] == "1.16.0", report.logs["in_template"]
    assert report.xcom["goes_on"]["accumulators"] == {"rows": 11}, report.logs["goes_on"]
