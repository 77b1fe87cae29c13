"""Accumulators have the public names of PySpark's, and its documented examples give the same values."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pyspark import accumulators as pyspark_accumulators
from pyspark.accumulators import AccumulatorParam
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark import accumulators as ours
from airflow_provider_sparkdeps.spark.session import Session

# PySpark's name -> our name, or why there is none.
ACCUMULATOR = {
    "value": "value",
    "add": "add",
    "__iadd__": "__iadd__",
    "__str__": "__str__",
    "__repr__": "__repr__",
    "__reduce__": "__reduce__",
    "aid": "no: the number of an accumulator in its SparkContext; here the key is `name`",
    "accum_param": "no: `kind` defines how terms are added, and may contain an AccumulatorParam",
}
PARAM = {
    "zero": "PySpark's own class is used: `WithParam(YourParam(), initial)`",
    "addInPlace": "PySpark's own class is used: `WithParam(YourParam(), initial)`",
}


def public(thing: type) -> set[str]:
    """Return the public names that a class defines, and its special methods but the constructor."""
    methods = {name for name, value in vars(thing).items() if inspect.isfunction(value) and name != "__init__"}
    return methods | {name for name in vars(thing) if not name.startswith("_")}


def test_each_public_name_of_pysparks_accumulators_exists_or_has_a_reason() -> None:
    assert set(pyspark_accumulators.__all__) == {"Accumulator", "AccumulatorParam"}
    made = pyspark_accumulators.Accumulator(-77, 0, pyspark_accumulators.INT_ACCUMULATOR_PARAM)
    del pyspark_accumulators._accumulatorRegistry[-77]
    attributes = {name for name in vars(made) if not name.startswith("_")}
    assert public(pyspark_accumulators.Accumulator) | attributes == set(ACCUMULATOR)
    assert public(pyspark_accumulators.AccumulatorParam) == set(PARAM)
    for name, our in ACCUMULATOR.items():
        assert our.startswith("no: ") or (our == name and name in public(ours.Accumulator))


def foreach(session: Session, function: Any) -> None:
    """Run `rdd.foreach` of [1, 2, 3] on a DataFrame."""
    session.spark.range(1, 4, 1, 3).foreach(lambda row: function(row.id))


def test_pysparks_examples_of_an_accumulator_give_the_same_values(session: Session) -> None:
    a = session.accumulator("a", 1)
    assert a.value == 1
    a.value = 2
    assert a.value == 2
    a += 5
    assert a.value == 7
    assert str(a) == "7"
    assert session.accumulator("floating", 1.0).value == 1.0
    assert session.accumulator("complex", 1j).value == 1j

    def f(x: int) -> None:
        nonlocal a
        a += x

    foreach(session, f)
    assert a.value == 13
    b = session.accumulator("b", 0)
    foreach(session, lambda x: b.add(x))
    assert b.value == 6

    with pytest.raises(PySparkException, match="'a' can only be added to on executors"):
        session.spark.range(3).select(udf(lambda x: a.value, "long")("id")).collect()

    def h(x: int) -> None:
        a.value = 7

    with pytest.raises(PySparkException, match=r"'a' can only be added to on executors\. Set its value in"):
        foreach(session, h)
    with pytest.raises(InvalidArgumentError, match="Use an int or a float"):
        session.accumulator("c", [1.0, 2.0, 3.0])
    assert a.value == 13


def test_pysparks_example_of_an_accumulator_param_gives_the_same_values(session: Session) -> None:
    class VectorAccumulatorParam(AccumulatorParam[list[float]]):
        def zero(self, value: list[float]) -> list[float]:
            return [0.0] * len(value)

        def addInPlace(self, val1: list[float], val2: list[float]) -> list[float]:
            for i in range(len(val1)):
                val1[i] += val2[i]
            return val1

    va = session.accumulator("va", [1.0, 2.0, 3.0], VectorAccumulatorParam())
    assert va.value == [1.0, 2.0, 3.0]

    def g(x: int) -> None:
        nonlocal va
        va += [x] * 3

    foreach(session, g)
    assert va.value == [7.0, 8.0, 9.0]
    assert va.value == [7.0, 8.0, 9.0], "reading it changes nothing"


def test_an_accumulator_continues_from_a_value_that_is_set(session: Session) -> None:
    count, codes = session.accumulator("count"), session.accumulator("codes", ours.SetOf())
    foreach(session, count.add)
    foreach(session, codes.add)
    count.value, codes.value = 100, {"a"}
    assert (count.value, codes.value) == (100, {"a"})
    foreach(session, count.add)
    foreach(session, codes.add)
    assert (count.value, codes.value) == (106, {"a", 1, 2, 3})
