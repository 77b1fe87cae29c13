"""All kinds of accumulators count on a cluster, and XCom keeps their values without loss."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from airflow.sdk.bases.xcom import BaseXCom
from pyspark.accumulators import AccumulatorParam
from pyspark.errors import PySparkException
from pyspark.sql import functions as F
from pyspark.sql.functions import pandas_udf, udf  # type: ignore[attr-defined]
from pyspark.sql.observation import Observation

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import (
    Accumulators,
    ApproxCountDistinct,
    CounterOf,
    ListOf,
    Max,
    Min,
    SetOf,
    Sum,
    WithParam,
    decode_accumulators,
)
from airflow_provider_sparkdeps.spark.accumulators.distinct import DistinctCount
from airflow_provider_sparkdeps.spark.accumulators.executor import MAX_UPDATE_BYTES
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_initial_values, to_kind
from airflow_provider_sparkdeps.spark.session import Session


class Vector(AccumulatorParam[list[float]]):
    """PySpark's example, in a module that executors don't have."""

    def zero(self, value: list[float]) -> list[float]:
        return [0.0] * len(value)

    def addInPlace(self, value1: list[float], value2: list[float]) -> list[float]:
        for index in range(len(value1)):
            value1[index] += value2[index]
        return value1


class Longest:
    """Not a subclass of PySpark's class; its values are strings."""

    def zero(self, value: str) -> str:
        return ""

    def addInPlace(self, value1: str, value2: str) -> Any:
        return max(value1, value2, key=len)


class Opaque(Longest):
    def addInPlace(self, value1: str, value2: str) -> Any:
        return object()


class Collecting(Longest):
    def addInPlace(self, value1: str, value2: str) -> Any:
        return value1 + value2


def adding(function: Callable[[int], None]) -> Callable[..., Any]:
    """Return a UDF that calls a function for each row and returns the row's value."""

    @udf("long")
    def added(value: int) -> int:
        function(value)
        return value

    return added


def run(session: Session, function: Callable[[int], None], count: int = 1000) -> None:
    session.spark.range(0, count, 1, 4).select(adding(function)("id").alias("n")).orderBy("n").collect()


KINDS = [
    (Sum(0), 41),
    (Sum(0.5), 41.5),
    (Sum(1j), 3 + 1j),
    (Sum(Decimal("0.10")), Decimal("0.30")),
    (Sum(0.0), math.inf),
    (Min(), None),
    (Max(), 7),
    (Max(date(2026, 1, 1)), date(2026, 11, 20)),
    (SetOf(limit=3), {1, "a", (2, None)}),
    (ListOf(limit=3), [1, "a", [2]]),
    (CounterOf(limit=3), Counter({"E42": 3, "E7": 0.5})),
    (CounterOf(), Counter({1: 3, None: 1, (1, "a"): 2})),
    (ApproxCountDistinct(lg_k=10), ApproxCountDistinct(lg_k=10).add(DistinctCount(), "a", name="users")),
]


@pytest.mark.parametrize(("kind", "value"), KINDS, ids=range(len(KINDS)))
def test_a_downstream_task_continues_from_xcom_without_loss(kind: Any, value: object) -> None:
    pushed = kind.to_xcom(value)
    assert json.loads(json.dumps(BaseXCom.serialize_value(pushed))) == pushed, "XCom does not change it"
    for pulled in (pushed, str(pushed), json.dumps(pushed)):
        restored = to_kind("name", pulled)
        assert type(restored) is type(kind)
        assert restored.value == value
        assert type(restored.value) is type(value)
        assert getattr(restored, "limit", None) == getattr(kind, "limit", None)
        assert restored.to_xcom(restored.value) == pushed
    assert decode_accumulators({"name": pushed}) == {"name": value}


def test_ints_and_floats_are_plain_numbers_in_xcom() -> None:
    assert [Sum(0).to_xcom(41), Sum(0.5).to_xcom(41.5)] == [41, 41.5]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Sum("1"), "A sum can't start from '1'"),
        (lambda: Sum(True), "A sum can't start from True"),
        (
            lambda: ApproxCountDistinct(cast("Any", 5)),
            "ApproxCountDistinct can't start from 5: a number does not say",
        ),
        (lambda: ApproxCountDistinct(lg_k=19), "lg_k=19 is not a whole number from 4 to 18"),
        (lambda: to_kind("a", {"kind": "approx_distinct", "value": 1}), "not from an upstream task's"),
        (
            lambda: to_kind("a", {"kind": "approx_distinct", "value": 1, "sketch": 5, "lg_k": 12}),
            "not from an upstream task's",
        ),
        (lambda: SetOf("abc"), "Use a list of values"),
        (lambda: SetOf(limit=0), "limit=0 of SetOf is not"),
        (lambda: ListOf(limit=cast("Any", 2.5)), "limit=2.5 of ListOf is not"),
        (lambda: CounterOf(cast("Any", ["a"])), "Use a dict of numbers"),
        (lambda: CounterOf({"a": "b"}), "A sum can't start from 'b'"),
        (lambda: WithParam(Vector, [0.0]), r"Use Vector\(\)"),
        (lambda: WithParam(object(), [0.0]), "has no method zero"),
        (lambda: WithParam(Vector(), object()), r"can\'t have the value .*object is not supported"),
        (lambda: to_kind("a", {"a": 1}), "Use an int or a float"),
        (lambda: to_kind("a", [1]), "Use an int or a float"),
        (lambda: to_kind("a", {"kind": "sett", "value": []}), "not from an upstream task's"),
        (lambda: to_kind("a", {"kind": "max"}), "not from an upstream task's"),
        (lambda: check_initial_values([0]), "accumulators is a list"),
    ],
)
def test_an_invalid_kind_is_refused(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=problem):
        make()


def test_kinds_have_the_same_repr_each_time_a_dag_is_parsed() -> None:
    assert repr(SetOf({"b", "a", 1})) == "SetOf(initial=(1, 'a', 'b'), limit=10000)"
    assert repr(WithParam(Vector(), [0.0])) == "WithParam(Vector(), [0.0])"


def test_each_kind_counts_what_its_udf_adds(session: Session) -> None:
    kinds = {
        "total": 0.5,
        "turns": 0j,
        "least": Min(),
        "largest": Max(10),
        "latest": Max(),
        "codes": SetOf(["E0"]),
        "examples": ListOf(limit=5),
        "counts": CounterOf({"E0": 1}),
        "vector": WithParam(Vector(), [1.0, 2.0]),
        "longest": WithParam(Longest(), "abc"),
    }
    found = {name: session.accumulator(name, kind) for name, kind in kinds.items()}
    total, turns, least, largest, latest, codes, examples, counts, vector, longest = found.values()

    def add(value: int) -> None:
        nonlocal total, turns, codes, counts
        total += value
        turns += value * 1j
        least.add(None if value < 5 else value)
        largest.add(value)
        latest.add(date(2026, 1, 1 + value % 28))
        codes += f"E{value % 3}"
        codes.add({"x", "y"})
        examples.add((value, "bad"))
        counts.add(f"E{value % 3}")
        counts.add({"even": 1 - value % 2, "half": 0.5})
        vector.add([1.0, float(value)])
        longest.add("a" * (value % 7))

    run(session, add)
    assert total.value == 499500.5
    assert turns.value == 499500j
    assert (least.value, largest.value, latest.value) == (5, 999, date(2026, 1, 28))
    assert codes.value == {"E0", "E1", "E2", "x", "y"}
    assert len(examples.value) == 5
    assert all(example == "bad" and value in range(1000) for value, example in examples.value)
    assert counts.value == Counter({"E0": 335, "E1": 333, "E2": 333, "even": 500, "half": 500.0})
    assert vector.value == [1001.0, 499502.0]
    assert longest.value == "aaaaaa"
    total.add(1)
    codes.add("here")
    counts.add({"here": 2})
    vector.add([0.0, 1.0])
    pushed = session.accumulator_values
    assert json.loads(json.dumps(pushed)) == pushed
    taken = decode_accumulators(pushed)
    assert taken == {name: accumulator.value for name, accumulator in found.items()}
    assert taken["codes"] >= {"here"}
    assert (taken["total"], taken["counts"]["here"], taken["vector"]) == (499501.5, 2, [1001.0, 499503.0])


def test_distinct_values_are_estimated_over_tasks_queries_and_xcom(session: Session) -> None:
    users = session.accumulator("users", ApproxCountDistinct())
    assert users.value == 0

    def add(value: int) -> None:
        nonlocal users
        users += value % 20_000
        users += float(value % 20_000)
        users += None
        users += ("a", value % 20_000)

    run(session, add, 50_000)
    assert 40_000 * 0.95 < users.value < 40_000 * 1.05
    before = users.value
    run(session, add, 50_000)
    assert users.value == before, "the same values again"
    users.add("here")
    users.add(1)
    assert before <= users.value <= before + 20
    pushed = session.accumulator_values
    assert pushed["users"]["value"] == users.value
    for name, upstream in {"pushed": pushed, "values": decode_accumulators(pushed)}.items():
        downstream = session.accumulator(name, check_initial_values(upstream)["users"])
        assert downstream.value == users.value
    run(session, lambda value: downstream.add(value % 20_000), 20_000)
    assert downstream.value == users.value, "the same values in another task"
    run(session, lambda value: downstream.add(value + 1_000_000), 10_000)
    assert 50_000 * 0.95 < downstream.value < 50_000 * 1.05


def test_numpy_values_are_converted(session: Session) -> None:
    total, largest = session.accumulator("total"), session.accumulator("largest", Max())
    codes = session.accumulator("codes", SetOf())

    def batches(frames: Any) -> Any:
        for frame in frames:
            total.add(frame.id.sum())
            largest.add(frame.id.max())
            codes.add(set((frame.id % 3).unique()))
            yield frame

    session.spark.range(0, 1000, 1, 4).mapInPandas(batches, "id long").collect()
    assert session.accumulator_values == {
        "total": 499500,
        "largest": {"kind": "max", "value": 999},
        "codes": {"kind": "set", "value": [0, 1, 2], "limit": 10_000},
    }


def test_a_value_from_xcom_is_kept_and_continues_once_the_callable_sets_its_param(session: Session) -> None:
    pushed = {"vector": WithParam(Vector(), [0.0]).to_xcom([7.0])}
    found = {name: session.accumulator(name, kind) for name, kind in check_initial_values(pushed).items()}
    accumulators = Accumulators(found, session.accumulator)
    assert session.accumulator_values == pushed
    with pytest.raises(SessionError, match=r"accumulators\.create\(name, param=YourParam\(\)\)"):
        accumulators["vector"].add([1.0])
    vector = accumulators.create("vector", param=Vector())
    vector.add([1.0])
    run(session, lambda value: vector.add([1.0]), 10)
    assert session.accumulator_values == {"vector": {"kind": "param", "value": [18.0]}}
    assert accumulators.create("other", pushed["vector"], Vector()).value == [7.0]


@pytest.mark.parametrize(
    ("kind", "term", "problem"),
    [
        (SetOf(limit=5), lambda value: value, "'grown' has more than 5 different values"),
        (CounterOf(limit=5), lambda value: value, "'grown' has more than 5 different values"),
        (CounterOf(), lambda value: f"{value:100000}", f"'grown' has more than {MAX_UPDATE_BYTES:,} bytes in one task"),
        (SetOf(), lambda value: f"{value:100000}", f"'grown' has more than {MAX_UPDATE_BYTES:,} bytes in one task"),
        (ListOf(), lambda value: "a" * 100_000, f"'grown' has more than {MAX_UPDATE_BYTES:,} bytes in one task"),
        (WithParam(Collecting(), ""), lambda value: "a" * 100_000, f"'grown' has more than {MAX_UPDATE_BYTES:,} bytes"),
        (WithParam(Opaque(), ""), lambda value: "a", r"'grown' could not be sent: builtins\.object"),
        (SetOf(), lambda value: object, "'grown' could not be sent"),
        (SetOf(), lambda value: [value], "unhashable"),
        (Sum(0), str, "'grown' adds numbers, and '0' is not one"),
        (Sum(0), lambda value: Fraction(1, 3), r"'grown' adds numbers, and Fraction\(1, 3\) is not one"),
        (CounterOf(), lambda value: {"a": "1"}, "'grown' adds numbers"),
        (Max(), lambda value: Fraction(1, 3), "'grown' could not be sent: fractions.Fraction"),
        (Max(), lambda value: "a" * (MAX_UPDATE_BYTES + 1), "'grown' has more than"),
    ],
)
def test_a_term_that_can_not_be_sent_is_refused_at_once(kind: Any, term: Callable[[int], object], problem: str) -> None:
    make, *options = kind.executor_args()
    counter = make("grown", *options)
    with pytest.raises((RuntimeError, TypeError), match=problem):
        _ = [counter.add(term(value)) for value in range(20)]


def test_a_term_that_can_not_be_sent_fails_the_query(session: Session) -> None:
    grown = session.accumulator("grown", SetOf())
    with pytest.raises(PySparkException, match=f"'grown' has more than {MAX_UPDATE_BYTES:,} bytes in one task"):
        run(session, lambda value: grown.add(f"{value:100000}"), 100)
    assert grown.value == set()


def test_the_updates_of_many_tasks_may_take_more_than_pysparks_128_mb(session: Session) -> None:
    examples = session.accumulator("examples", ListOf(limit=150))

    @udf("long")
    def added(value: int) -> int:
        examples.add(str(value) + "a" * 950_000)
        return value

    session.spark.range(0, 150, 1, 150).select(added("id").alias("n")).collect()
    found = examples.value
    assert sum(map(len, found)) > 128 << 20
    assert {int(each.rstrip("a")) for each in found} == set(range(150))


def test_an_update_that_could_not_be_sent_when_a_task_ends_is_missing(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    """The query may have written its rows, so that it must not fail."""
    text = session.accumulator("text", "", Collecting())
    with caplog.at_level("WARNING"):
        session.spark.range(0, 3, 1, 1).select(adding(lambda value: text.add("a" * 400_000))("id")).collect()
        assert (text.value, text.dropped) == ("", 1)
        assert session.accumulator_values == {"text": {"kind": "param", "value": "", "dropped": 1}}
    (message,) = [each.getMessage() for each in caplog.records if "is incomplete" in each.getMessage()]
    assert message.startswith(
        f"Accumulator 'text' is incomplete, 1 are missing: Accumulator 'text' has more than {MAX_UPDATE_BYTES:,}"
    )


@pytest.mark.parametrize(("kind", "number"), [(SetOf(limit=150), 150), (CounterOf(limit=150), 150)])
def test_what_several_tasks_add_beyond_a_limit_is_dropped_and_said(
    session: Session, kind: Any, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    codes = session.accumulator("codes", kind)
    with caplog.at_level("WARNING"):
        run(session, codes.add, 400)
        assert (len(codes.value), codes.dropped) == (number, 250)
    pushed = codes.to_xcom()
    assert (pushed["dropped"], len(to_kind("codes", pushed).value)) == (250, number)
    (message,) = [each.getMessage() for each in caplog.records if "is incomplete" in each.getMessage()]
    assert "250 are missing: it has more than 150 different values, which is its limit" in message


def test_numpys_scalars_do_not_overflow(session: Session) -> None:
    total, small, precise, codes = (
        session.accumulator(name, initial)
        for name, initial in (("total", 0), ("small", 0), ("precise", 0.0), ("codes", CounterOf()))
    )
    latest = session.accumulator("latest", Max())

    @pandas_udf("long")  # type: ignore[untyped-decorator]
    def add(values: pd.Series) -> pd.Series:
        import numpy as np

        for value in values:
            total.add(np.int32(2_000_000_000))
            small.add(np.uint8(200))
            precise.add(np.float32(16_777_216) if value == 0 else np.float32(1))
            codes.add({"a": np.int32(2_000_000_000)})
            latest.add(np.datetime64("2026-01-01", "ns"))
        return values

    session.spark.range(0, 4, 1, 1).select(add("id")).collect()
    assert (total.value, small.value, precise.value) == (8_000_000_000, 800, 16_777_219.0)
    assert (codes.value, latest.value) == (Counter(a=8_000_000_000), datetime(2026, 1, 1))
    total.add(np.int32(2_000_000_000))
    assert total.value == 10_000_000_000


def test_observed_metrics_are_added_to_accumulators(session: Session) -> None:
    found = {"rows": session.accumulator("rows", 5), "largest": session.accumulator("largest", Max())}
    accumulators = Accumulators(found, session.accumulator)
    observation = Observation("orders")
    metrics = [
        F.count(F.lit(1)).alias("rows"),
        F.count_if(F.col("id") > 990).alias("bad"),
        F.max(F.col("id").cast("string")).alias("largest"),
        F.sum(F.lit(None).cast("long")).alias("nothing"),
    ]
    frame = session.spark.range(0, 1000, 1, 4).observe(observation, *metrics)
    with pytest.raises(SessionError, match="Call `add_observation` after an action"):
        accumulators.add_observation(observation)
    frame.collect()
    accumulators.add_observation(observation)
    assert session.accumulator_values == {"rows": 1005, "bad": 9, "largest": {"kind": "max", "value": "999"}}
    with pytest.raises(SessionError, match="was already added to the accumulators"):
        accumulators.add_observation(observation)
    text = Observation("text")
    session.spark.range(3).observe(text, F.max(F.lit("a")).alias("letter"), F.count(F.lit(1)).alias("more")).collect()
    with pytest.raises(InvalidArgumentError, match="Could not create a sum of the metric 'letter'"):
        accumulators.add_observation(text)
    assert "more" not in accumulators
