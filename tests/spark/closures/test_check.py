"""What is told of a task's UDFs before its callable runs: what is certain to fail, what may; and no false alarm."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.check import check_udfs
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules

HEAD = """
import threading
import airy
import pyspark.sql.functions as F
from pyspark.sql.connect.functions import udf
from pyspark.sql.types import StringType

LOCK = threading.Lock()
TABLE = bytes(5_000_000)
STATE = None
LATER = threading.Lock()

def init():
    global STATE, LATER
    STATE = {}
    LATER = 1

def prepare():
    init()

def clean(x):
    return LOCK

def fine(x):
    return x

made_before = udf(clean, StringType(), useArrow=False)
"""

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Writes a DAG file with a callable of this body, and checks that before it is called."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "airy.py").write_text("from airflow.sdk import Variable\ndef shout(x):\n    return x.upper()\n")
    modules = ExecutorModules(frozenset({"pandas", "numpy"}), sealed=True, root=tmp_path)

    def write(body: str, **changes: Any) -> list[str]:
        source = (
            f"{HEAD}\ndef make(kind):\n    def run(spark, day=None):\n{textwrap.indent(textwrap.dedent(body), ' ' * 8)}"
        )
        (tmp_path / "dag_file.py").write_text(f"{source}\n        return kind\n    return run\n")
        importlib.invalidate_caches()
        with pickle_by_value(tmp_path):
            module = importlib.import_module("dag_file")
            try:
                return [str(each) for each in check_udfs(module.make(threading_lock()), replace(modules, **changes))]
            finally:
                for name in ("dag_file", "airy"):
                    sys.modules.pop(name, None)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


def threading_lock() -> Any:
    import threading

    return threading.Lock()


CERTAIN = {
    "a global that can't travel": ("@udf('double')\ndef parse(x):\n    return LOCK", "`LOCK` in parse is a lock"),
    "one of a helper's": ("spark.table('t').select(udf(clean, 'string')('x'))", "`LOCK` in clean is a lock"),
    "a variable of the callable's own closure": ("f = F.udf(lambda x: kind)", "`kind` in <lambda> is a lock"),
    "a missing module": (
        "@F.pandas_udf('double')\ndef parse(x):\n    import sklearn\n    return sklearn",
        "`sklearn` in parse is imported, and executors don't have it: add ",
    ),
    "inside with": ("with open('x'):\n    @F.udf\n    def parse(x):\n        import sklearn", "`sklearn` in parse"),
    "a file beside the DAG's": (
        "def go(rows):\n    import airy\n    yield from rows\nspark.table('t').mapInPandas(go, 'x int').count()",
        "`airy` in go is imported, and executors don't have it: write `from airy import ...`",
    ),
    "a module with Airflow in it": (
        "spark.table('t').foreach(lambda row: airy.shout(row))",
        "`airy` in <lambda> is a module that travels whole, with `airflow.",
    ),
    "a udtf": ("@F.udtf(returnType='x int')\nclass Rows:\n    pass\nf = F.udf(clean)", "`LOCK` in clean"),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_what_is_certain_to_fail_fails_before_the_callable_runs(name: str, check: Check) -> None:
    body, words = CERTAIN[name]
    with pytest.raises(SessionError) as caught:
        check(body)
    assert str(caught.value).startswith("UDFs of this task can't run on executors: ")
    assert words in str(caught.value)


MAYBE = {
    "it may not come to it": (
        "if day:\n    @udf('double')\n    def parse(x):\n        return LOCK",
        "`LOCK` in parse is a lock",
    ),
    "it may return before": ("if day:\n    return 1\nf = udf(clean)", "`LOCK` in clean is a lock"),
    "the UDF may not call it": (
        "def helper(x):\n    import sklearn\n@udf('double')\ndef parse(x):\n    return helper(x)",
        "`sklearn` in helper is imported, and executors don't have it",
    ),
    "a UDF at module level": ("spark.table('t').select(made_before('x'))", "`LOCK` in clean is a lock"),
    "large": (
        "@udf('double')\ndef parse(x):\n    return TABLE[x]",
        "`TABLE` in parse is 5.0 MB that travel with each use in each query: write `table = broadcast(TABLE)`",
    ),
    "nobody sets it": (
        "@udf('double')\ndef parse(x):\n    return STATE",
        "`STATE` in parse is set by init() on the worker only",
    ),
}


@pytest.mark.parametrize("name", MAYBE)
def test_what_may_fail_is_warned_of(name: str, check: Check) -> None:
    body, words = MAYBE[name]
    (said,) = check(body)
    assert words in said


SILENT = {
    "what the callable itself does": "import sklearn\nwith LOCK:\n    clean(TABLE)\nairy.shout('x')",
    "functions that it keeps for itself": "def mine(x):\n    import sklearn\n    return LOCK\nmine(kind)",
    "a udf of somebody else's": "def udf(f):\n    return f\nf = udf(clean)",
    "an import that may fail": (
        "@udf('double')\ndef parse(x):\n    try:\n        import sklearn\n    except ImportError:\n        return None"
    ),
    "a global that it sets": "init()\n@udf('double')\ndef parse(x):\n    return STATE, LATER",
    "a global that what it calls sets": "prepare()\n@udf('double')\ndef parse(x):\n    return STATE, LATER",
    "a variable of its own": "lock = kind\n@udf('double')\ndef parse(x):\n    return lock",
    "modules that executors have": "@udf('double')\ndef parse(x):\n    import json, pandas, pyspark.sql\n    return x",
    "modules that it sends": (
        "spark.addArtifacts('x.py', pyfile=True)\n@udf('double')\ndef parse(x):\n    import airy, sklearn\n    return x"
    ),
    "a plain function": "f = udf(fine)",
}


@pytest.mark.parametrize("name", SILENT)
def test_there_is_no_false_alarm(name: str, check: Check) -> None:
    assert check(SILENT[name]) == []


def test_of_an_environment_that_is_not_known_modules_are_warned_of_only_if_they_are_the_dags_own(check: Check) -> None:
    body = "@udf('double')\ndef parse(x):\n    import sklearn\n    import airy\n    return x"
    (said,) = check(body, environment=None)
    assert "`airy` in parse is imported" in said


def test_what_can_not_be_looked_at_is_let_be(check: Check) -> None:
    class Strange:
        def __call__(self) -> None: ...

    assert check_udfs(Strange(), ExecutorModules()) == []
    assert check_udfs(eval("lambda spark: spark"), ExecutorModules()) == []
