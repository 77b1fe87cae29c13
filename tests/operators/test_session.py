"""One session for several tasks: the pair of tasks that open and close it, and the tasks that join it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import dag, task

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError, SessionLostError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.local_airflow import DagRunReport, LocalAirflow
from airflow_provider_sparkdeps.operators.session import OpenSparkSessionOperator, SharedSessionXCom, spark_session
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

environment = VenvEnvironment(["six==1.15.0"])
OPENED = SharedSessionXCom(
    shared=SharedSession(id="a", server_side_id="b", target="spark:15002", environment_key=environment.key),
    spark_conn_id="spark",
    on_lost="fail",
    py_files=("lib.py",),
)


@pytest.fixture(scope="session")
def shared(airflow: LocalAirflow) -> DagRunReport:
    return airflow.run("sharing")


def test_tasks_share_a_session_and_its_temporary_views(shared: DagRunReport) -> None:
    opened = shared.xcom["open_spark_session"]["return_value"]
    assert shared.xcom["creates_view"]["return_value"] == "1.15.0"
    for number in (1, 2):
        assert shared.xcom[f"reads_view[{number - 1}]"]["return_value"] == [number, 3, "1.15.0", opened["id"]]
        assert "Joined session" in shared.logs[f"reads_view[{number - 1}]"]


def test_a_shared_session_is_closed_when_a_task_has_failed(shared: DagRunReport, server: EmbeddedServer) -> None:
    assert shared.tasks["names_another_environment"] == "failed"
    assert shared.tasks["close_spark_session"] == "success"
    assert "Closed session" in shared.logs["close_spark_session"]
    opened = SharedSession.from_dict(shared.xcom["open_spark_session"]["return_value"])
    endpoint = Endpoint(host=server.host, port=server.port, user_id=opened.user_id or None)
    with pytest.raises(SessionLostError, match="was closed"), Session(endpoint, shared=opened):
        pass


def test_a_task_with_another_environment_is_rejected(shared: DagRunReport) -> None:
    assert shared.tasks["names_another_environment"] == "failed"
    assert "one interpreter for all tasks" in shared.logs["names_another_environment"]


def test_a_lost_session_is_reopened_with_on_lost_reopen(shared: DagRunReport) -> None:
    assert shared.tasks["continues"] == "success"
    version, session_id = shared.xcom["continues"]["return_value"]
    assert version == "1.15.0"
    assert session_id != shared.xcom["open_fragile"]["return_value"]["id"]
    assert "was closed or has expired" in shared.logs["continues"]
    assert shared.tasks["close_fragile"] == "success"
    assert "was closed already" in shared.logs["close_fragile"]


def test_the_session_is_opened_before_and_closed_after_the_tasks_of_the_block() -> None:
    @dag(schedule=None)
    def pair():
        with spark_session("scoring", environment=environment) as session:
            one = task.spark_connect(task_id="one", session=session)(count)()
            one >> task.spark_connect(task_id="two", session=session)(count)()
            task(task_id="three")(count)(1)
            task.spark_connect(task_id="mapped", session=session)(add).expand(number=[1, 2])

    made = pair()
    opening, closing = made.get_task("open_scoring"), made.get_task("close_scoring")
    assert (opening.is_setup, closing.is_teardown) == (True, True)
    assert opening.downstream_task_ids == {"one", "two", "three", "mapped", "close_scoring"}
    assert {"two", "three", "mapped", "open_scoring"} <= closing.upstream_task_ids


def count(spark):
    return spark.range(3).count()


def add(spark, number):
    return spark.range(number).count()


def test_a_shared_session_passes_through_xcom() -> None:
    assert SharedSessionXCom.from_dict(json.loads(json.dumps(OPENED.to_dict()))) == OPENED


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"accumulators": {"rows": 0}}, "accumulators and session can't be combined"),
        ({"py_files": ["lib.py"]}, "py_files and session can't be combined"),
    ],
)
def test_arguments_that_exclude_a_session_are_rejected_at_dag_parse(fields: dict[str, Any], message: str) -> None:
    def counting(spark, accumulators): ...

    with pytest.raises(InvalidArgumentError, match=message):
        task.spark_connect(session=OPENED.to_dict(), **fields)(counting)()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spark_conn_id": "other"}, "was opened with connection 'spark', and this task uses 'other'"),
        ({"environment": VenvEnvironment(["six==1.16.0"])}, "with another environment than this task's"),
    ],
)
def test_a_task_that_does_not_match_the_shared_session_is_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SessionError, match=message):
        OPENED.check_matches(**{"environment": environment, "spark_conn_id": None, **fields})
    OPENED.check_matches(environment=environment, spark_conn_id="spark")


def test_an_invalid_on_lost_is_rejected_at_dag_parse() -> None:
    with pytest.raises(InvalidArgumentError, match="Use one of fail, reopen"):
        OpenSparkSessionOperator(task_id="open", on_lost="retry")


def test_a_session_with_its_own_server_can_not_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SPARK", '{"conn_type": "sparkdeps", "host": "local[1]"}')
    with pytest.raises(InvalidArgumentError, match="stops it with the session"):
        SparkConnectHook("spark").check_shareable()
