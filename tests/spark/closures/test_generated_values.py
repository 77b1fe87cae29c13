"""What is said of a function is what happens to it in a query, for captured values of all kinds."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from pyspark.serializers import CloudPickleSerializer
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import LARGE
from airflow_provider_sparkdeps.spark.closures.report import make_report
from airflow_provider_sparkdeps.spark.closures.unpickling import unpickling_errors
from airflow_provider_sparkdeps.spark.closures.walker import ClosureWalker
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from ...support import captured_values
from ...support.executors import open_session

FIXED = 60
"""Values in `make test`. Of all pairs of a value and a way to capture it, the seed chooses."""


def verdicts(functions: dict[str, Any]) -> dict[str, str]:
    """Return why a function can't work, as `inspect_closure` says; an empty string if it can."""
    found = {}
    for name, function in functions.items():
        walk = ClosureWalker()
        walk.start(function)
        report = make_report(function, walk, ExecutorModules(), large=LARGE)
        errors = [str(finding) for finding in report.findings if finding.level == "error"]
        assert bool(errors) == (report.size is None), name
        found[name] = "; ".join(errors)
    passed = [name for name, error in found.items() if not error]
    return found | dict(zip(passed, unpickling_errors([functions[name] for name in passed]), strict=True))


def facts(functions: dict[str, Any], server: EmbeddedServer) -> dict[str, str]:
    """Return why a function fails on executors, or in PySpark when it is sent; an empty string if it does not."""

    found, rows = {}, []
    for name, function in functions.items():
        try:
            rows.append((name, CloudPickleSerializer().dumps((function, "string"))))
        except pickle.PickleError as error:
            found[name] = str(error)
    with open_session(server) as session:

        @udf("string")
        def unpickle(pickled: bytes) -> str:
            from pyspark.serializers import CloudPickleSerializer

            try:
                CloudPickleSerializer().loads(bytes(pickled))
            except Exception as error:  # noqa: BLE001 (whatever users' classes raise)
                return f"{type(error).__name__}: {error}"
            return ""

        frame = session.spark.createDataFrame(rows, "name string, pickled binary").repartition(2)
        found |= {row[0]: row[1] for row in frame.select("name", unpickle("pickled")).collect()}
    return found


@pytest.mark.parametrize(
    ("count", "seed"),
    [(FIXED, 1), *(pytest.param(300, seed, marks=pytest.mark.soak) for seed in (2, 3))],
)
def test_no_function_that_works_is_refused_and_none_that_fails_passes(
    count: int, seed: int, server: EmbeddedServer
) -> None:
    with pickle_by_value(Path(captured_values.__file__).parent):
        functions = captured_values.functions(count, seed)
        said, happened = verdicts(functions), facts(functions, server)
    assert said.keys() == happened.keys()
    false_refusals = {name: said[name] for name in said if said[name] and not happened[name]}
    false_passes = {name: happened[name] for name in said if happened[name] and not said[name]}
    assert (false_refusals, false_passes) == ({}, {})
    failed = sum(map(bool, happened.values()))
    assert count / 12 < failed < count / 2, "the values are of both kinds"
