"""What a function captures is found with the path to it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark import cloudpickle
from pyspark.sql.connect.functions import udf, udtf
from pyspark.sql.types import StringType
from pyspark.sql.udf import UserDefinedFunction

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.closures import walker
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.report import inspect_closure

from ...support.closures import Bundle, local_scorer, rows


def test_each_kind_of_capture_is_listed_with_the_path_to_it(bundle: Bundle, tmp_path: Path) -> None:
    module = bundle(
        "ways",
        """
TABLE = {1: 2}
RATE = 3
UNUSED = 4

def lookup(key):
    return [TABLE[each] for each in (lambda: (key,))()]

def parse(text, sep=",", *, strict=True):
    return (lambda: RATE)(), lookup(text)

def make(bias):
    def score(text, factor: "float" = 0.5):
        return parse(text), bias
    score.version = "v1"
    return score
""",
    )
    seen = rows(inspect_closure(module.make(7), root=tmp_path))
    assert {key: each.kind for key, each in seen.items()} == {
        "score: code": "code",
        "score: parse": "global",
        "score -> parse: code": "code",
        "score -> parse: RATE": "global",
        "score -> parse: lookup": "global",
        "score -> parse -> lookup: code": "code",
        "score -> parse -> lookup: TABLE": "global",
        "score -> parse: sep": "default",
        "score -> parse: strict": "keyword default",
        "score: factor": "default",
        "score: bias": "closure cell",
        "score: version": "attribute",
    }
    assert all(each.by == "value" for each in seen.values())
    assert seen["score -> parse -> lookup: TABLE"].type == "dict"


def test_by_value_or_by_reference_is_cloudpickles_decision(bundle: Bundle, tmp_path: Path) -> None:
    helpers = bundle("siblings", "import json\n\ndef helper(x):\n    return json.dumps(x)\n\nclass Kind:\n    pass\n")
    module = bundle(
        "decisions",
        "import numpy\nfrom numpy.linalg import norm\nfrom siblings import helper, Kind\n\n"
        "def function(x):\n    return numpy.ones(3), norm(x), helper(x), Kind\n",
    )
    inside = rows(inspect_closure(module.function, root=tmp_path))
    assert {each.name: each.by for each in inside.values() if each.owner == "function"} == {
        "code": "value",
        "numpy": "reference",
        "norm": "reference",
        "helper": "value",
        "Kind": "value",
    }
    with pickle_by_value(tmp_path):
        assert b"siblings" in cloudpickle.dumps(helpers.helper)
        assert b"\x8c\x08siblings\x94\x8c\x06helper\x94\x93" not in cloudpickle.dumps(helpers.helper)
    (outside,) = inspect_closure(module.function).captures
    assert (outside.name, outside.by, outside.modules) == ("function", "reference", ("decisions",))
    assert b"\x8c\x09decisions\x94\x8c\x08function\x94\x93" in cloudpickle.dumps(module.function)


class Scorer:
    def __init__(self) -> None:
        self.weights = np.ones(1000)
        self.name = "a"

    def __call__(self, x: float) -> Any:
        return self.weights * x

    def score(self, x: float) -> Any:
        return self(x)


def test_all_kinds_of_callables_are_inspected() -> None:
    weights = np.ones(1000)

    def plain(x: float, y: float = 2) -> Any:
        return weights * x * y

    class Table:
        def eval(self, x: int) -> Any:
            yield weights[x], 1

    made = udf(plain, StringType(), useArrow=False)
    classic = UserDefinedFunction(plain, StringType())
    table = udtf(Table, returnType="x double", useArrow=False)
    expected = {
        "plain: weights": plain,
        "Scorer: self.weights": Scorer(),
        "score: self.weights": Scorer().score,
        "Local: self.weights": local_scorer(),
        "partial(plain) -> func: weights": functools.partial(plain, y=3),
        "Table -> eval: weights": Table,
    }
    for key, function in expected.items():
        report = inspect_closure(function)
        size = rows(report)[key].size
        assert size == pytest.approx(len(cloudpickle.dumps(weights)), rel=0.02), key
        assert report.size == pytest.approx(len(cloudpickle.dumps(function)), rel=0.02), key
    for wrapped, inner in ((made, plain), (classic, plain), (table, Table)):
        assert inspect_closure(wrapped).to_dict() == inspect_closure(inner).to_dict()
    bias = rows(inspect_closure(local_scorer()))["Local: Local.bias"]
    assert bias.size == pytest.approx(len(cloudpickle.dumps(np.ones(2000))), rel=0.02)
    with pytest.raises(InvalidArgumentError, match="Could not inspect a int: it is not callable"):
        inspect_closure(3)


def test_cycles_and_large_graphs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    report = inspect_closure(even)
    assert report.size == pytest.approx(len(cloudpickle.dumps(even)), rel=0.02)
    assert report.complete
    monkeypatch.setattr(walker, "MAX_CAPTURES", 50)
    many = [(lambda n: lambda: n)(number) for number in range(100)]
    report = inspect_closure(lambda: many)
    assert not report.complete
    assert len(report.captures) == 50
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    assert "recursion" in str(inspect_closure(lambda: deep).findings[0])

    class Node:
        next: Any = None

    linked = Node()
    for _ in range(3000):
        linked, linked.next = Node(), linked
    report = inspect_closure(lambda: linked)
    assert not report.complete
    assert "can't be pickled" in str(report.findings[0])
