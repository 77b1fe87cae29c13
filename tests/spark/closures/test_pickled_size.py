"""The sizes of captured values are those of cloudpickle, and measuring them takes no copy."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark import cloudpickle

from airflow_provider_sparkdeps.spark.closures import report
from airflow_provider_sparkdeps.spark.closures.report import inspect_closure

from ...support.closures import rows

VALUES = {
    "dict": {number: str(number) for number in range(20_000)},
    "array": np.arange(500_000, dtype="float64"),
    "every other of an array": np.arange(100_000)[::2],
    "frame": pd.DataFrame({"n": np.arange(50_000), "text": ["abc"] * 50_000}),
    "bytes": b"x" * 300_000,
    "text": "é" * 100_000,
    "shared": [np.ones(20_000)] * 3,
}


@pytest.mark.parametrize("name", VALUES)
def test_sizes_are_those_of_cloudpickle(name: str) -> None:
    value = VALUES[name]

    def helper(key: Any) -> Any:
        return value, key

    def function(key: Any) -> Any:
        return helper(key), value

    inspected = inspect_closure(function)
    assert inspected.size == pytest.approx(len(cloudpickle.dumps(function)), rel=0.02)
    seen = rows(inspected)
    assert seen["function: value"].size == pytest.approx(len(cloudpickle.dumps(value)), rel=0.02)
    assert seen["function: helper"].size == pytest.approx(len(cloudpickle.dumps(helper)), rel=0.02)
    assert seen["function -> helper: code"].size == len(cloudpickle.dumps(helper.__code__))


def test_measuring_takes_no_copy_of_a_large_array() -> None:
    big = np.zeros(12_500_000)

    def helper(x: int) -> Any:
        return big[x]

    def function(x: int) -> Any:
        return helper(x), big

    inspect_closure(function)
    tracemalloc.start()
    size = inspect_closure(function).size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size is not None
    assert size > 100_000_000
    assert peak < 5_000_000


def test_measuring_stops_at_what_is_too_large_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(range(300_000))
    monkeypatch.setattr(report, "MAX_MEASURED", 100_000)
    (_, row) = inspect_closure(lambda: numbers).captures
    assert row.more
    assert row.size is not None
    assert 100_000 < row.size < 300_000
