"""Accumulators count exactly on a cluster of two executors, whatever Spark repeats."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.accumulators.collector import UpdateCollector
from airflow_provider_sparkdeps.spark.accumulators.kinds import Sum
from airflow_provider_sparkdeps.spark.accumulators.updates import make_token
from airflow_provider_sparkdeps.spark.session import Session

from ...support.counted import counting
from ...support.servers import OwnServer


def rows(session: Session, count: int = 1000, partitions: int = 4) -> DataFrame:
    return session.spark.range(0, count, 1, partitions)


def killing(marker: Path) -> Callable[..., Any]:
    """Return a UDF that kills its executor, once."""

    @udf("long")
    def kill(value: int) -> int:
        if not marker.exists():
            marker.touch()
            daemon = os.getppid()
            executor = int(Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(executor, signal.SIGKILL)
        return value

    return kill


def test_a_query_whose_executor_is_killed_counts_once(own_server: OwnServer, tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    with Session(own_server.endpoint) as session:
        count = session.accumulator("count")
        # The first reducer that runs kills its executor, whose map output is lost.
        mapped = rows(session).select(counting(count)("id").alias("n")).repartition(3)
        assert len(mapped.select(killing(marker)("n")).collect()) == 1000
        assert marker.exists()
        assert count.value == 1000


def test_a_cached_dataframe_whose_executor_is_killed_counts_once(own_server: OwnServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Session(own_server.endpoint) as session:
        count = session.accumulator("count")

        @udf("long")
        def counted(value: int) -> int:
            count.add(1)
            with log.open("a") as file:
                file.write(f"{value}\n")
            return value

        cached = rows(session).select(counted("id").alias("n")).cache()
        assert len(cached.collect()) == 1000
        assert count.value == 1000
        rows(session, 1, 1).select(killing(tmp_path / "killed")("id")).collect()
        assert len(cached.collect()) == 1000
        assert len(log.read_text().split()) > 1000, "Spark has computed what it lost again"
        assert count.value == 1000


def test_a_failed_query_adds_nothing_to_the_next_one(shared: Session, count: Accumulator) -> None:
    @udf("long")
    def failing(value: int) -> int:
        count.add(1)
        if value == 900:
            raise ValueError("row 900")
        return value

    with pytest.raises(PySparkException, match="row 900"):
        rows(shared).select(failing("id")).collect()
    assert count.value == 0
    rows(shared, 10).select(counting(count)("id")).collect()
    assert count.value == 10


def test_concurrent_queries_of_one_session_are_each_exact(shared: Session) -> None:
    counts = {size: shared.accumulator(f"count_{size}") for size in (300, 500, 700)}

    def query(size: int) -> None:
        for _ in range(3):
            rows(shared, size).select(counting(counts[size])("id").alias("n")).orderBy("n").collect()

    threads = [threading.Thread(target=query, args=(size,)) for size in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {size: count.value for size, count in counts.items()} == {size: 3 * size for size in counts}


def test_pandas_functions_count(session: Session) -> None:
    count = session.accumulator("count", 0.5)

    def batches(frames: Any) -> Any:
        for frame in frames:
            count.add(len(frame))
            yield frame

    rows(session).mapInPandas(batches, "id long").collect()
    assert count.value == 1000.5


def test_a_clone_of_the_session_counts_too(shared: Session, count: Accumulator) -> None:
    if not hasattr(shared.spark, "cloneSession"):
        pytest.skip("this PySpark has no cloneSession")
    clone = shared.spark.cloneSession()
    try:
        clone.range(100).select(counting(count)("id")).collect()
    finally:
        clone.stop()
    assert count.value == 100


def test_an_accumulator_continues_from_its_initial_value(session: Session) -> None:
    count = session.accumulator("count", 40)
    count += 1
    rows(session, 1, 1).select(counting(count)("id")).collect()
    assert session.accumulator_values == {"count": 42}


def test_reading_on_an_executor_is_refused(shared: Session, count: Accumulator) -> None:
    @udf("long")
    def reading(value: int) -> Any:
        return count.value

    with pytest.raises(PySparkException, match=r"'count_\d+' can only be added to on executors"):
        rows(shared, 1, 1).select(reading("id")).collect()


@pytest.mark.parametrize("name", ["", "bad rows", "1st", "a-b", None])
def test_a_name_that_is_not_an_identifier_is_refused(session: Session, name: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="is not an identifier"):
        session.accumulator(name)


@pytest.mark.parametrize("initial", ["many", None, [1], True, {"a": 1}])
def test_an_initial_value_that_is_not_a_number_is_refused(session: Session, initial: object) -> None:
    with pytest.raises(InvalidArgumentError, match="Use an int or a float"):
        session.accumulator("count", initial)


class Hostile:
    def __reduce__(self) -> Any:
        return os.putenv, ("SPARKDEPS_HOSTILE", "1")


@pytest.mark.parametrize("registered_as", ["ours", "one of PySpark's own"])
def test_nothing_that_executors_send_runs_code_here(session: Session, tmp_path: Path, registered_as: str) -> None:
    count = session.accumulator("count")
    token = count.__reduce__()[1][0] if registered_as == "ours" else 77
    ran = tmp_path / "ran"

    @udf("long")
    def sends(value: int) -> int:
        import pathlib

        from pyspark.accumulators import _accumulatorRegistry

        registry: dict[Any, Any] = _accumulatorRegistry

        class Sent:
            def __reduce__(self) -> Any:
                return pathlib.Path.touch, (pathlib.Path(ran),)

        class Fake:
            _value = Sent()

        registry[token] = Fake()
        return value

    with pytest.raises(SessionError, match="Could not read an accumulator update"):
        rows(session, 1, 1).select(sends("id")).collect()
    assert not ran.exists()
    assert count.value == 0


ACCUMULATOR = "a" * 32
TOKEN = make_token(ACCUMULATOR, f"{0:032x}")
UPDATE = ["operation", "", 1, 0, 7, "", 0, 1, 9, 1]


@pytest.mark.parametrize(
    "sent",
    [
        pickle.dumps((TOKEN, Hostile())),
        pickle.dumps((Hostile(), TOKEN)),
        pickle.dumps((TOKEN, json.dumps([*UPDATE, 1])), protocol=0),
        pickle.dumps((TOKEN, json.dumps([*UPDATE, 1])))[:-2],
        pickle.dumps((TOKEN, json.dumps([*UPDATE, 1]), "more")),
        pickle.dumps((TOKEN, "no JSON")),
        pickle.dumps((TOKEN, "[" * 100_000)),
        pickle.dumps((TOKEN, json.dumps([*UPDATE]))),
        pickle.dumps((TOKEN, json.dumps(["operation", "", 1, "0", 7, "", 0, 1, 9, 1, 1]))),
        pickle.dumps((TOKEN, json.dumps([*UPDATE, "1"]))),
        pickle.dumps((TOKEN, json.dumps([*UPDATE, {"kind": "os.putenv", "value": ["SPARKDEPS_HOSTILE", "1"]}]))),
        pickle.dumps((1, Hostile())),
        b"no pickle",
    ],
)
def test_an_update_that_our_code_on_executors_does_not_send_is_refused(sent: bytes) -> None:
    collector = UpdateCollector()
    collector.register(ACCUMULATOR, "count", Sum(0))
    with pytest.raises(SessionError, match="Could not read an accumulator update"):
        collector._accept(sent)
    assert "SPARKDEPS_HOSTILE" not in os.environ
    collector.on_success("operation")
    assert [*collector._updates] == []


def test_updates_of_sparks_profiler_are_left_to_pyspark() -> None:
    assert not UpdateCollector()._accept(pickle.dumps((-2, {1: (None, {"a": [1]})})))
