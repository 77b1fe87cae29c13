"""The largest variable is read from a pickled function, and nothing of it is run."""

from __future__ import annotations

import copyreg
import os
import pickle
import tracemalloc
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from pyspark import cloudpickle
from pyspark.sql.types import StringType

from airflow_provider_sparkdeps.spark.closures.largest_variable import largest_variable

from ...support.closures import local_scorer


class Holder:
    texts: list[str]


def variables(many: int) -> dict[str, tuple[Any, str, tuple[str, ...]]]:
    """Return functions with the name and the owners of their largest variable."""
    array, table, texts = np.ones(many), dict.fromkeys(range(many), 1.5), [str(number) for number in range(many)]
    little = [1, 2]

    def cell(x: int) -> Any:
        return little, array[x]

    def table_cell(x: int) -> Any:
        return little, table[x]

    def inner(x: int) -> Any:
        return little, texts[x]

    def outer(x: int) -> Any:
        return inner(x), little

    def default(x: int, *, known: Any = table) -> Any:
        return known[x]

    holder = Holder()
    holder.texts = texts

    def attribute(x: int) -> Any:
        return little, holder.texts[x]

    class Rows:
        table = texts

        def eval(self, x: int) -> Any:
            yield self.table[x]

    namespace: dict[str, Any] = {"LITTLE": 3, "TABLE": table, "OTHER": 4, "__name__": "__main__"}
    exec("def score(x):\n    return LITTLE, TABLE[x], OTHER", namespace)
    exec("def alone(x):\n    return TABLE[x]", namespace)
    return {
        "an array in a cell": (cell, "array", ("cell",)),
        "a dict in a cell": (table_cell, "table", ("table_cell",)),
        "in a captured function": (outer, "texts", ("outer", "inner")),
        "a keyword default": (default, "known", ("default",)),
        "an object": (attribute, "holder", ("attribute",)),
        "a class attribute": (Rows, "table", ("Rows",)),
        "a global": (namespace["score"], "TABLE", ("score",)),
        "the only global": (namespace["alone"], "TABLE", ("alone",)),
    }


@pytest.mark.parametrize("name", variables(1))
def test_the_largest_variable_is_found(name: str) -> None:
    function, variable, owner = variables(50_000)[name]
    pickled = cloudpickle.dumps((function, StringType()))
    found = largest_variable(pickled)
    assert found is not None
    assert (found.name, found.owner) == (variable, owner)
    assert found.size == pytest.approx(len(pickled), rel=0.02)


def test_attributes_of_callable_objects_and_bound_methods_are_found() -> None:
    scorer = local_scorer()
    scorer.weights = np.ones(10_000)
    for function in (scorer, scorer.__call__):
        found = largest_variable(cloudpickle.dumps((function, StringType())))
        assert found is not None
        assert (found.name, found.owner) == ("self.weights", ())


def test_values_that_share_their_parts_and_refer_to_themselves_are_measured() -> None:
    shared = [str(number) for number in range(20_000)]
    both: list[Any] = [shared, OrderedDict(a=shared), defaultdict(list, b=shared)]
    both.append(both)

    def recursive(x: int) -> Any:
        return recursive(x), both, shared

    found = largest_variable(cloudpickle.dumps(recursive))
    assert found is not None
    assert found.name == "both"


def test_reading_takes_the_memory_of_the_values_and_no_more() -> None:
    array = np.zeros(5_000_000)
    pickled = cloudpickle.dumps(lambda x: array[x])
    tracemalloc.start()
    found = largest_variable(pickled)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert peak < 1.1 * len(pickled)


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it was run')",)


def test_reading_runs_nothing() -> None:
    hostile = Hostile()
    copyreg.add_extension("os", "_exit", 0xABCD)
    try:
        # Extension code, argument 1, call.
        extension = b"\x80\x02\x83\xcd\xabK\x01\x85R."
        # copyreg caches the function.
        assert pickle.loads(b"\x80\x02\x83\xcd\xab.") is os._exit
        for pickled in (cloudpickle.dumps(hostile), extension, b"cos\n_exit\n(I1\ntR.", b"(I1\nios\n_exit\n."):
            assert largest_variable(pickled) is None
    finally:
        copyreg.remove_extension("os", "_exit", 0xABCD)
    found = largest_variable(cloudpickle.dumps(lambda: hostile))
    assert found is not None
    assert found.name == "hostile"


def test_a_pickle_that_can_not_be_read_has_no_variable() -> None:
    for pickled in (b"", b"nonsense", cloudpickle.dumps(len)[:-5], cloudpickle.dumps(3)):
        assert largest_variable(pickled) is None
