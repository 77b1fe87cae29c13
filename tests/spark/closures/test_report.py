"""What a function takes to executors is told as it is, and each pitfall with its remedy; no Spark is needed for it."""

from __future__ import annotations

import functools
import importlib
import json
import socket
import sqlite3
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark import cloudpickle
from pyspark.sql.connect.functions import udf, udtf
from pyspark.sql.types import StringType
from pyspark.sql.udf import UserDefinedFunction

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.archives.manifest import Contents
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.closures import report, walker
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.report import Capture, ClosureReport, inspect_closure

Bundle = Callable[..., ModuleType]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bundle]:
    """Writes a module of a DAG bundle, whose root is `tmp_path`, and imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    written: list[str] = []

    def write(name: str, source: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return importlib.import_module(name)

    yield write
    for name in written:
        del sys.modules[name]


def archive(*modules: str, interpreter: str | None = "bin/python", contents: Contents | None = None) -> Archive:
    """The manifest of an environment with these modules."""
    return Archive(
        key="0" * 64,
        kind="venv",
        payload="env.payload",
        size=1,
        sha256="0" * 64,
        interpreter=interpreter,
        python="3.11.7",
        platform="linux-x86_64",
        packages={},
        lock=(),
        environment={},
        contents=Contents(modules=tuple(modules)) if contents is None else contents,
        created_at="now",
        created_by="me",
    )


def rows(report: ClosureReport) -> dict[str, Capture]:
    return {f"{each.owner}: {each.name}": each for each in report.captures}


def faults(report: ClosureReport) -> list[str]:
    return [f"{each.level}: {each}" for each in report.findings]


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

    report = inspect_closure(function)
    assert report.size == pytest.approx(len(cloudpickle.dumps(function)), rel=0.02)
    seen = rows(report)
    assert seen["function: value"].size == pytest.approx(len(cloudpickle.dumps(value)), rel=0.02)
    assert seen["function: helper"].size == pytest.approx(len(cloudpickle.dumps(helper)), rel=0.02)
    assert seen["function -> helper: code"].size == len(cloudpickle.dumps(helper.__code__))


def test_all_ways_to_capture_are_told_with_the_path_to_them(bundle: Bundle, tmp_path: Path) -> None:
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


def local_scorer() -> Any:
    class Local:
        bias = np.ones(2000)

        def __init__(self) -> None:
            self.weights = np.ones(1000)

        def __call__(self, x: float) -> Any:
            return self.weights * x + self.bias.sum()

    return Local()


def test_whatever_can_be_called_is_looked_into() -> None:
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
    with pytest.raises(InvalidArgumentError, match="a int can't be called: give a function"):
        inspect_closure(3)


def test_measuring_takes_no_copy_of_a_large_array() -> None:
    big = np.zeros(12_500_000)

    def helper(x: int) -> Any:
        return big[x]

    def function(x: int) -> Any:
        return helper(x), big

    inspect_closure(function)
    tracemalloc.start()
    report = inspect_closure(function)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.size is not None
    assert report.size > 100_000_000
    assert peak < 5_000_000


def test_cycles_and_endless_graphs_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_larger_than_can_be_sent_is_not_measured_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = list(range(300_000))
    monkeypatch.setattr(report, "MAX_MEASURED", 100_000)
    (_, row) = inspect_closure(lambda: numbers).captures
    assert row.more
    assert row.size is not None
    assert 100_000 < row.size < 300_000


def make_generator() -> Any:
    yield 1


def session_like(kind: str) -> Any:
    """Sessions and DataFrames can't be had without a server: objects of their classes, which nothing is asked of."""
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.session import SparkSession

    return object.__new__({"SparkSession": SparkSession, "DataFrame": DataFrame}[kind])


RESOURCES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "session": (lambda: session_like("SparkSession"), "is a SparkSession, which can't travel", "executors can't query"),
    "frame": (lambda: session_like("DataFrame"), "is a DataFrame, which can't travel", "join with it"),
    "lock": (threading.Lock, "is a lock, which can't travel", "make it inside the function"),
    "event": (threading.Event, "is a lock, which can't travel", "make it inside the function"),
    "thread": (threading.Thread, "is a thread, which can't travel", "make it inside the function"),
    "file": (lambda: Path(__file__).open(), "is an open file, which can't travel", "read it in the callable"),  # noqa: SIM115
    "socket": (socket.socket, "is a socket, which can't travel", "make it inside the function"),
    "database": (lambda: sqlite3.connect(":memory:"), "is a database connection", "make it inside the function"),
    "within": (lambda: {"a": [threading.Lock()]}, "can't be pickled (it holds a lock)", "make it inside the function"),
    "other": (make_generator, "can't be pickled (cannot pickle 'generator' object)", "make it inside the function"),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_what_belongs_to_this_process_is_found(name: str) -> None:
    make, fault, remedy = RESOURCES[name]
    thing = make()

    def helper() -> Any:
        return thing

    report = inspect_closure(lambda: helper())
    (finding,) = report.findings
    assert (finding.name, finding.owner) == ("thing", "<lambda> -> helper")
    assert finding.level == ("warning" if name == "file" else "error")
    assert fault in str(finding)
    assert remedy in finding.remedy
    assert report.size is None
    assert "can't be pickled" in str(report)
    if name in ("file", "socket", "database"):
        thing.close()


class HasLock:
    """Says how it travels: without its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Restarting(threading.Thread):
    """A thread that travels as a new one."""

    def __reduce__(self) -> Any:
        return Restarting, ()


def test_a_column_is_found_and_is_no_error() -> None:
    from pyspark.sql.connect.functions import col

    column = col("x")
    (finding,) = inspect_closure(lambda: column).findings
    assert (finding.level, finding.name) == ("warning", "column")
    assert "apply it in the query" in finding.remedy


def test_what_can_travel_is_no_finding() -> None:
    import io
    import logging

    fine = [HasLock(), Restarting(), logging.getLogger("x"), io.StringIO("x"), StringType(), pd.Series([1])]

    def local(x: int) -> Any:
        import json
        import os.path

        return json, os.path, threading, fine[x]

    fine.append(local)
    assert faults(inspect_closure(local)) == []


def test_a_fault_inside_a_class_is_found_once_and_where_it_is(bundle: Bundle, tmp_path: Path) -> None:
    module = bundle(
        "classes",
        "import threading\nfrom pandas import DataFrame\nLOCK = threading.Lock()\n\n"
        "class Scorer:\n    def score(self, x):\n        with LOCK:\n            return x\n\n"
        "class Frame(DataFrame):\n    pass\n\nscorer = Scorer()\n\n"
        "def a(x):\n    return scorer.score(x)\n\ndef b(x):\n    return Scorer().score(x)\n\n"
        "def c(x):\n    return Frame(x)\n",
    )
    found = {name: inspect_closure(getattr(module, name), archive=archive(), root=tmp_path).findings for name in "abc"}
    assert [[(each.name, each.owner) for each in findings] for findings in found.values()] == [
        [("LOCK", "a -> scorer -> score")],
        [("LOCK", "b -> Scorer -> score")],
        [("Frame", "c")],
    ]
    assert "holds something of `pandas.core.frame`, which executors don't have" in found["c"][0].fault


def test_a_large_variable_is_to_be_broadcast() -> None:
    table = np.ones(1_000_000)
    alias = table
    small = np.ones(1000)

    def helper(x: int) -> Any:
        return table[x]

    report = inspect_closure(lambda x: (helper(x), alias, small))
    (finding,) = report.findings
    assert str(finding) == (
        "`alias` in <lambda> is 8.0 MB that travel with each use in each query: write `alias = broadcast(alias)` in "
        "the callable, and `alias.value` in the function"
    )
    assert finding.level == "warning"
    assert inspect_closure(helper, large=9_000_000).findings == ()
    scorer = local_scorer()
    scorer.weights = table
    (finding,) = inspect_closure(scorer).findings
    assert finding.name == "self.weights"
    (finding,) = inspect_closure(lambda x: scorer(x)).findings
    assert finding.name == "scorer.weights"


REBOUND = """
TABLE = None
SIZE = 3
CACHE = None
FIXED = 4

def init():
    global TABLE, SIZE
    def inner():
        global SIZE
        SIZE = 5
    TABLE = {}

def cached():
    global CACHE
    CACHE = CACHE or {}
    return CACHE

def score(x):
    return TABLE, SIZE, cached(), FIXED
"""


def test_a_global_that_another_function_sets_is_found(bundle: Bundle, tmp_path: Path) -> None:
    module = bundle("rebound", REBOUND)
    report = inspect_closure(module.score, root=tmp_path)
    found = {each.name: each for each in report.findings}
    assert found.keys() == {"TABLE", "SIZE"}, "CACHE is set by what travels along: executors keep it for themselves"
    assert found["TABLE"].level == "warning"
    assert "is set by init() on the worker only" in found["TABLE"].fault
    assert "now that is None" in found["TABLE"].fault
    assert "call init() in the callable before the action" in found["TABLE"].remedy
    assert found["SIZE"].level == "note"
    module.init()
    assert {each.level for each in inspect_closure(module.score, root=tmp_path).findings} == {"note"}


def lazy(flag: bool) -> Any:
    import missing_always.sub as always
    import numpy.linalg as there

    try:
        import missing_maybe
    except ImportError:
        missing_maybe = None
    if flag:
        import missing_sometimes
    return there, always, missing_maybe, missing_sometimes


def test_a_module_that_the_environment_lacks_is_found(bundle: Bundle, tmp_path: Path) -> None:
    source = Path(__file__).read_text()
    start = source.index("def lazy(")
    body = source[start : source.index("\n\n\n", start)]
    module = bundle(
        "imports", f"from typing import Any\nimport pandas\n\n{body}\n\ndef score(x):\n    return lazy(x), pandas\n"
    )
    report = inspect_closure(module.score, archive=archive("numpy"), root=tmp_path)
    found = {each.name: (each.level, each.owner) for each in report.findings}
    assert found == {
        "pandas": ("error", "score"),
        "missing_always.sub": ("error", "score -> lazy"),
        "missing_sometimes": ("note", "score -> lazy"),
    }
    assert report.findings[0].level == "error"
    text = str(report)
    assert "add pandas to the environment" in text.replace("\n", " ")
    assert rows(report)["score: pandas"].found is False
    assert (
        inspect_closure(module.lazy, archive=archive("numpy", "missing_always"), root=tmp_path).findings[0].level
        == "note"
    )


@pytest.mark.parametrize(
    "unknown",
    [
        None,
        archive(contents=Contents(files=1)),
        archive("numpy", interpreter=None),
    ],
    ids=["no environment", "an old manifest", "the executors' own Python"],
)
def test_of_what_is_not_known_nothing_is_said(unknown: Archive | None, bundle: Bundle, tmp_path: Path) -> None:
    module = bundle("unknowns", "import pandas\n\ndef score(x):\n    import missing_always\n    return pandas\n")
    report = inspect_closure(module.score, archive=unknown, root=tmp_path)
    assert report.findings == ()
    assert rows(report)["score: pandas"].found is None


def test_what_is_on_the_worker_only_is_found(bundle: Bundle, tmp_path: Path) -> None:
    bundle("neighbour", "def helper(x):\n    return x\n")
    module = bundle(
        "workers",
        "from airflow.sdk import Variable\nfrom neighbour import helper\n\n"
        "def lazily(x):\n    from neighbour import helper\n    return helper(x)\n\n"
        "def asks(x):\n    return Variable.get(x)\n\n"
        "def fine(x):\n    return helper(x)\n",
    )
    known = archive("numpy")
    (finding,) = inspect_closure(module.lazily, archive=known, root=tmp_path).findings
    assert (finding.level, finding.name) == ("error", "neighbour")
    assert "write `from neighbour import ...` at the top of the file" in finding.remedy
    assert inspect_closure(module.lazily, root=tmp_path).findings[0].level == "warning"
    assert inspect_closure(module.lazily, archive=known, root=tmp_path, py_files=["x/neighbour.py"]).findings == ()
    (finding,) = inspect_closure(module.asks, archive=known, root=tmp_path).findings
    assert (finding.level, finding.name) == ("error", "Variable")
    assert "Airflow is on its workers only" in finding.remedy
    assert inspect_closure(module.asks, root=tmp_path).findings[0].level == "warning"
    assert inspect_closure(module.fine, archive=known, root=tmp_path).findings == ()


def test_a_module_of_the_bundle_that_travels_whole_is_found(bundle: Bundle, tmp_path: Path) -> None:
    bundle("small", "X = 1\ndef shout(x):\n    return x.upper()\n")
    bundle("airy", "from airflow.sdk import Variable\ndef shout(x):\n    return x.upper()\n")
    bundle("locked", "import threading\nLOCK = threading.Lock()\ndef shout(x):\n    return x.upper()\n")
    module = bundle(
        "wholes",
        "import json, small, airy, locked\nfrom small import shout\n\n"
        "def a(x):\n    return small.shout(x)\n\ndef b(x):\n    return airy.shout(x)\n\n"
        "def c(x):\n    return locked.shout(x)\n\ndef d(x):\n    return json.dumps(shout(x))\n",
    )
    found = {name: inspect_closure(getattr(module, name), archive=archive(), root=tmp_path).findings for name in "abcd"}
    assert [each.level for name in "abc" for each in found[name]] == ["note", "error", "error"]
    assert "is a module that travels whole, with all its globals" in found["a"][0].fault
    assert found["a"][0].remedy == "write `from small import shout` instead"
    assert "is a module that travels whole, with `airflow." in found["b"][0].fault
    assert found["b"][0].remedy == "write `from airy import shout` instead"
    assert "travels whole, and can't be pickled (it holds a lock)" in found["c"][0].fault
    assert found["d"] == ()


def test_a_report_is_plain_data_and_text_with_and_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    table = np.ones(1_000_000)
    report = inspect_closure(lambda x: table[x])
    data = report.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["captures"][1]["name"] == "table"
    assert data["findings"][0]["remedy"] == report.findings[0].remedy
    with_rich = str(report)
    assert "│" in with_rich
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for text in (with_rich, str(report)):
        for part in (
            "<lambda>: ",
            "bytes pickled",
            "table",
            "closure cell",
            "numpy.ndarray",
            "numpy: not known",
            "8,000,",
        ):
            assert part in text, text
        assert f"warning: {report.findings[0]}" in text.splitlines()
    assert "│" not in str(report)
