"""PySpark's accumulators beside ours: each public name, and the examples of its documentation."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pyspark import accumulators as theirs
from pyspark.accumulators import AccumulatorParam
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators import accumulator as ours
from airflow_provider_sparkdeps.spark.session import Session

# PySpark's name -> ours, or why there is none.
ACCUMULATOR = {
    "value": "value",
    "add": "add",
    "__iadd__": "__iadd__",
    "__str__": "__str__",
    "__repr__": "__repr__",
    "__reduce__": "__reduce__",
    "aid": "no: the number of an accumulator in its SparkContext; ours go by `name`",
    "accum_param": "no: how terms are added is `kind`, of which an AccumulatorParam is one",
}
PARAM = {
    "zero": "PySpark's own class is taken: `WithParam(YourParam(), initial)`",
    "addInPlace": "PySpark's own class is taken: `WithParam(YourParam(), initial)`",
}


def public(thing: type) -> set[str]:
    """The names that a class itself defines, without its constructor and what begins with one underscore."""
    methods = {name for name, value in vars(thing).items() if inspect.isfunction(value) and name != "__init__"}
    return methods | {name for name in vars(thing) if not name.startswith("_")}


def test_each_public_name_of_pysparks_accumulators_is_ours_or_says_why_not() -> None:
    assert set(theirs.__all__) == {"Accumulator", "AccumulatorParam"}
    made = theirs.Accumulator(-77, 0, theirs.INT_ACCUMULATOR_PARAM)
    del theirs._accumulatorRegistry[-77]
    attributes = {name for name in vars(made) if not name.startswith("_")}
    assert public(theirs.Accumulator) | attributes == set(ACCUMULATOR)
    assert public(theirs.AccumulatorParam) == set(PARAM)
    for name, our in ACCUMULATOR.items():
        assert our.startswith("no: ") or (our == name and name in public(ours.Accumulator))


def foreach(session: Session, function: Any) -> None:
    """`rdd.foreach` of [1, 2, 3], as a DataFrame has it."""
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

    def f(x):
        nonlocal a
        a += x

    foreach(session, f)
    assert a.value == 13
    b = session.accumulator("b", 0)
    foreach(session, lambda x: b.add(x))
    assert b.value == 6

    with pytest.raises(PySparkException, match="'a' can only be added to on executors"):
        session.spark.range(3).select(udf(lambda x: a.value, "long")("id")).collect()

    def h(x):
        a.value = 7

    with pytest.raises(PySparkException, match="'a' can only be added to on executors: set its value in"):
        foreach(session, h)
    with pytest.raises(InvalidArgumentError, match="write an int or a float"):
        session.accumulator("c", [1.0, 2.0, 3.0])
    assert a.value == 13


def test_pysparks_example_of_an_accumulator_param_gives_the_same_values(session: Session) -> None:
    class VectorAccumulatorParam(AccumulatorParam):
        def zero(self, value):
            return [0.0] * len(value)

        def addInPlace(self, val1, val2):
            for i in range(len(val1)):
                val1[i] += val2[i]
            return val1

    va = session.accumulator("va", [1.0, 2.0, 3.0], VectorAccumulatorParam())
    assert va.value == [1.0, 2.0, 3.0]

    def g(x):
        nonlocal va
        va += [x] * 3

    foreach(session, g)
    assert va.value == [7.0, 8.0, 9.0]
    assert va.value == [7.0, 8.0, 9.0], "reading it changes nothing"


def test_a_value_that_is_set_counts_on_from_there(session: Session) -> None:
    count, codes = session.accumulator("count"), session.accumulator("codes", ours.SetOf())
    foreach(session, count.add)
    foreach(session, codes.add)
    count.value, codes.value = 100, {"a"}
    assert (count.value, codes.value) == (100, {"a"})
    foreach(session, count.add)
    foreach(session, codes.add)
    assert (count.value, codes.value) == (106, {"a", 1, 2, 3})
