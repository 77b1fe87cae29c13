"""Accumulators count exactly, or log a warning, where Spark repeats, drops or shares work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.functions import col, udf

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session


def counting(accumulator: Accumulator) -> Callable[[Any], Any]:
    """Return a function that adds 1 for each row and returns the row's value."""

    def counted(value: Any) -> Any:
        accumulator.add(1)
        return value

    return counted


def counted_rows(session: Session, accumulator: Accumulator, count: int = 1000) -> DataFrame:
    function = udf(counting(accumulator), "long")
    return session.spark.range(0, count, 1, 4).select(function("id").alias("n"))


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The warnings about accumulators."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("airflow_provider_sparkdeps.spark.accumulators.collector")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_a_task_that_is_tried_again_counts_once(shared: Session, tmp_path: Path) -> None:
    for name, shuffled in (("result", False), ("map", True)):
        count = shared.accumulator(name)
        marker = tmp_path / name

        @udf("long")
        def failing(value: int, count: Any = count, marker: Path = marker) -> int:
            count.add(1)
            if value == 900 and not marker.exists():
                marker.touch()
                raise ValueError("once")
            return value

        frame = shared.spark.range(0, 1000, 1, 4).select(failing("id").alias("n"))
        assert len((frame.repartition(3) if shuffled else frame).collect()) == 1000
        assert marker.exists()
        assert count.value == 1000


def test_an_interrupted_query_adds_nothing_to_the_next_one(shared: Session, count: Accumulator, tmp_path: Path) -> None:
    marker = tmp_path / "running"

    @udf("long")
    def slow(value: int) -> int:
        count.add(1)
        if value == 999:
            marker.touch()
            time.sleep(60)
        return value

    def interrupt() -> None:
        deadline = time.monotonic() + 30
        while not marker.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        shared.spark.interruptAll()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(PySparkException, match=r"(?i)cancel|interrupt"):
        shared.spark.range(0, 1000, 1, 4).select(slow("id")).collect()
    interrupting.join()
    assert count.value == 0
    counted_rows(shared, count, 10).collect()
    assert count.value == 10


@pytest.mark.parametrize("adaptive", [True, pytest.param(False, marks=pytest.mark.soak)])
def test_both_uses_of_a_registered_function_in_a_query_are_counted(
    shared: Session, count: Accumulator, warnings: list[str], adaptive: bool
) -> None:
    shared.spark.conf.set("spark.sql.adaptive.enabled", str(adaptive).lower())
    shared.spark.udf.register("counted", counting(count), "long")
    shared.spark.range(0, 1000, 1, 4).createOrReplaceTempView("many")
    shared.spark.range(0, 500, 1, 4).createOrReplaceTempView("few")
    shared.spark.sql("SELECT counted(id) AS n FROM many").collect()
    assert count.value == 1000
    joined = "SELECT * FROM (SELECT counted(id) AS n FROM many) JOIN (SELECT counted(id) AS n FROM few) USING (n)"
    assert len(shared.spark.sql(joined).collect()) == 500
    assert count.value == 1000 + 1500
    assert warnings == []
    united = "SELECT counted(id) AS n FROM many UNION ALL SELECT counted(id) AS n FROM few"
    assert len(shared.spark.sql(united).collect()) == 1500
    assert count.value == 2500 + 1500


@pytest.mark.parametrize(
    ("action", "called"),
    [
        (lambda frame: frame.limit(1).collect(), "limit, first, take or isEmpty"),
        (lambda frame: frame.show(2), "show"),
        (lambda frame: frame.count(), "count, or another aggregate"),
    ],
)
def test_an_action_without_updates_is_logged_once_with_the_way_to_fix_it(
    shared: Session, count: Accumulator, warnings: list[str], action: Callable[[DataFrame], Any], called: str
) -> None:
    for _ in range(2):
        action(counted_rows(shared, count, 100_000))
        _ = count.value
    assert count.value == 0
    (message,) = warnings
    assert f"No updates of accumulator '{count.name}' were received from an action ({called}): " in message
    assert "DataFrame.observe" in message


def test_actions_with_updates_are_not_logged(
    shared: Session, count: Accumulator, warnings: list[str], tmp_path: Path
) -> None:
    counted_rows(shared, count).collect()
    counted_rows(shared, count).write.parquet(str(tmp_path / "out"))
    cached = counted_rows(shared, count).cache()
    cached.collect()
    cached.where(col("n") > 10).count()
    shared.spark.range(10).count()
    assert count.value == 3000
    assert warnings == []


def test_an_accumulator_of_another_session_is_refused(session: Session, endpoint: Endpoint) -> None:
    session.accumulator("own")
    with Session(endpoint) as other:
        count = other.accumulator("count")
        with pytest.raises(SessionError, match="of an accumulator that this session does not have"):
            counted_rows(session, count, 10).collect()


def test_another_process_that_uses_the_session_makes_its_counts_unknown(session: Session, endpoint: Endpoint) -> None:
    from pyspark.sql.connect.session import SparkSession

    count = session.accumulator("count")
    session.spark.udf.register("counted", counting(count), "long")
    user = f";user_id={session.spark.client._user_id}" if session.spark.client._user_id else ""
    foreign = SparkSession.builder.remote(f"sc://{endpoint.target}/;session_id={session.id}{user}").create()
    try:
        # Three of its four tasks succeed, and their updates are in the response to our next operation.
        with pytest.raises(PySparkException, match="is not true"):
            foreign.sql("SELECT assert_true(counted(id) < 90) FROM range(0, 100, 1, 4)").collect()
    finally:
        foreign.client.close()
    counted_rows(session, count).collect()
    with pytest.raises(SessionError, match="Could not compute the accumulators of this session"):
        _ = count.value


def test_large_plans_that_pyspark_compresses_are_exact_as_well(session: Session) -> None:
    session.spark.client._plan_compression_threshold = 1000
    session.spark.client._plan_compression_algorithm = "ZSTD"
    count = session.accumulator("count")
    counted_rows(session, count).orderBy("n").collect()
    assert count.value == 1000
