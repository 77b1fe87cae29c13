"""Sketches of distinct values are merged without loss, and invalid ones are refused."""

from __future__ import annotations

import sys

import pytest

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators.distinct import ApproxCountDistinct, DistinctCount


def test_a_coarser_sketch_loses_nothing_of_a_finer_one() -> None:
    finer, coarser = ApproxCountDistinct(lg_k=14), ApproxCountDistinct(lg_k=12)
    found = DistinctCount()
    for start in range(0, 40_000, 10_000):
        found = finer.merge(found, sketch_of(finer, range(start, start + 10_000)))
    found = coarser.merge(found, sketch_of(coarser, range(20_000)))
    assert 40_000 * 0.95 < found < 40_000 * 1.05


def sketch_of(kind: ApproxCountDistinct, values: range) -> bytes:
    make, *options = kind.executor_args()
    counter = make("users", *options)
    for value in values:
        counter.add(value)
    sketch: bytes = counter.result()
    return sketch


def test_the_missing_package_of_a_sketch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make, *options = ApproxCountDistinct().executor_args()
    monkeypatch.setitem(sys.modules, "datasketches", None)
    with pytest.raises(
        RuntimeError, match=r"'users' is an ApproxCountDistinct.*Add it to the environment's requirements"
    ):
        make("users", *options)
    with pytest.raises(InvalidArgumentError, match=r"pip install 'airflow-provider-sparkdeps\[sketches\]'"):
        ApproxCountDistinct().executor_args()


@pytest.mark.parametrize("update", [5, b"", b"x" * 100, bytes(8)])
def test_an_update_that_is_not_a_sketch_is_refused(update: object) -> None:
    with pytest.raises(ValueError, match=r"not a sketch|is not a bytes"):
        ApproxCountDistinct().check(update)
