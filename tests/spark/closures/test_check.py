"""A task's UDFs are checked before its callable runs: what may fail is a warning, and nothing is pickled."""

from __future__ import annotations

import functools
import importlib
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.serializers import CloudPickleSerializer

from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.check import check_udfs, explain_pickling_error
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules

HEAD = """
import functools
import threading
import airy
import pyspark.sql.functions as F
from pyspark.sql.connect.functions import udf
from pyspark.sql.types import StringType

LOCK = threading.Lock()
TABLE = bytes(5_000_000)
STATE = None
LATER = threading.Lock()

class Wrong(Exception):
    def __init__(self, a, b):
        super().__init__(a)

WRONG = Wrong(1, 2)

class Task:
    def __setstate__(self, state):
        from pyspark import TaskContext
        self.partition = TaskContext.get().partitionId()

TASK = Task()
TASK.partition = 0
class Once:
    def __reduce__(self):
        raise SystemExit("it was pickled")
    __getstate__ = __reduce__

ONCE = Once()

class Lazy:
    @property
    def __class__(self):
        raise SystemExit("it was made")

LAZY = Lazy()
HOLDER = {"lock": threading.Lock()}

def init():
    global STATE, LATER
    STATE = {}
    LATER = 1

def prepare():
    init()

def helps(x):
    import sklearn

def ship(spark):
    spark.addArtifacts('x.py', pyfile=True)

@functools.lru_cache
def cached(x):
    return cached(x - 1) if x else 0

@functools.cache
def cached_lock(x):
    return LOCK

def clean(x):
    return LOCK

class Guarded:
    lock = LOCK

class Shape(Guarded):
    pass

def shape(x):
    return Shape

def fine(x):
    return x

module_udf = udf(clean, StringType(), useArrow=False)
"""

Check = Callable[..., list[str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Writes a DAG file with a callable of this body, and checks the callable."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "airy.py").write_text("from airflow.sdk import Variable\ndef shout(x):\n    return x.upper()\n")
    modules = ExecutorModules(frozenset({"pandas", "numpy"}), has_interpreter=True, root=tmp_path)

    def write(body: str, **changes: Any) -> list[str]:
        source = (
            f"{HEAD}\ndef make(kind):\n    def run(spark, day=None):\n{textwrap.indent(textwrap.dedent(body), ' ' * 8)}"
        )
        (tmp_path / "dag_file.py").write_text(f"{source}\n        return kind\n    return run\n")
        importlib.invalidate_caches()
        with pickle_by_value(tmp_path):
            module = importlib.import_module("dag_file")
            try:
                return [str(each) for each in check_udfs(module.make(threading.Lock()), replace(modules, **changes))]
            finally:
                for name in ("dag_file", "airy"):
                    sys.modules.pop(name, None)

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


USE = "\nspark.range(1).select({0}('id')).collect()"
LIKELY = {
    "a global that can't be pickled": (
        "@udf('double')\ndef parse(x):\n    return LOCK" + USE.format("parse"),
        "`LOCK` in parse is a lock",
    ),
    "one of a helper's": (
        "spark.range(1).select(udf(clean, 'string')('x')).count()",
        "`LOCK` in clean is a lock",
    ),
    "a variable of the callable's own closure": (
        "f = F.udf(lambda x: kind)" + USE.format("f"),
        "`kind` in <lambda> is a lock",
    ),
    "a missing module": (
        "@F.pandas_udf('double')\ndef parse(x):\n    import sklearn\n    return sklearn" + USE.format("parse"),
        "`sklearn` in parse is imported, and executors don't have it. Add ",
    ),
    "a file next to the DAG's": (
        "def go(rows):\n    import airy\n    yield from rows\nspark.table('t').mapInPandas(go, 'x int').count()",
        "`airy` in go is imported, and executors don't have it. Write `from airy import ...`",
    ),
    "a module with Airflow in it": (
        "spark.table('t').mapInArrow(lambda rows: airy.shout(rows), 'x int').show()",
        "`airy` in <lambda> is a module that is pickled as a whole, with `airflow.",
    ),
    "a base class": (
        "f = F.udf(shape)" + USE.format("f"),
        "`Guarded.lock` in shape -> Shape -> Guarded is a lock",
    ),
    "what a cached function captures": (
        "f = F.udf(lambda x: cached_lock(x))" + USE.format("f"),
        "`LOCK` in <lambda> -> cached_lock is a lock",
    ),
    "a udtf": (
        "@F.udtf(returnType='x int')\nclass Rows:\n    pass\nf = F.udf(clean)" + USE.format("f"),
        "`LOCK` in clean",
    ),
}


POSSIBLE = {
    "a UDF that is not used": ("f = udf(clean)\nspark.range(1).count()", "`LOCK` in clean is a lock"),
    "no action": ("f = udf(clean)\nspark.range(1).select(f('id'))", "`LOCK` in clean is a lock"),
    "a module that a helper imports": (
        "f = udf(lambda x: helps(x))" + USE.format("f"),
        "`sklearn` in <lambda> -> helps is imported",
    ),
    "a decorator that may return another function": (
        "@udf('double')\n@functools.cache\ndef parse(x):\n    return LOCK" + USE.format("parse"),
        "`LOCK` in parse is a lock",
    ),
    "a function by keyword": ("f = udf(f=clean)\nspark.range(1).select(f('id'))", "`LOCK` in clean is a lock"),
    "used in a branch": (
        "f = udf(clean)\nif day:\n    spark.range(1).select(f('id')).collect()",
        "`LOCK` in clean is a lock",
    ),
    "a conditional expression": (
        "n = udf(clean)('id') if day else 1\nspark.range(1).select(n).collect()",
        "`LOCK` in clean is a lock",
    ),
    "an operator that may stop": (
        "n = day and spark.range(1).mapInArrow(clean, 'x int').collect()",
        "`LOCK` in clean is a lock",
    ),
    "a comprehension": (
        "ns = [udf(clean)(c) for c in day]\nspark.range(1).select(*ns).collect()",
        "`LOCK` in clean is a lock",
    ),
    "a function with two definitions": (
        "def f(rows):\n    return rows\ndef f(rows):\n    return LOCK\nspark.range(1).mapInArrow(f, 'x int').collect()",
        "`LOCK` in f is a lock",
    ),
    "a helper that gets the session": (
        "day(spark)\n@udf('double')\ndef parse(x):\n    import sklearn" + USE.format("parse"),
        "`sklearn` in parse is imported",
    ),
    "with": (
        "with open('x'):\n    @udf('double')\n    def parse(x):\n        import sklearn\n    "
        + USE.format("parse")[1:],
        "`sklearn` in parse is imported",
    ),
    "a method that may change the value": (
        "Guarded.setup()\nf = udf(shape)" + USE.format("f"),
        "`Guarded.lock` in shape -> Shape -> Guarded is a lock",
    ),
    "an attribute that it sets": (
        "Guarded.lock = None\nf = udf(shape)" + USE.format("f"),
        "`Guarded.lock` in shape -> Shape -> Guarded is a lock",
    ),
    "a builtin that may change the value": (
        "setattr(Guarded, 'lock', None)\nf = udf(shape)" + USE.format("f"),
        "`Guarded.lock` in shape -> Shape -> Guarded is a lock",
    ),
    "in a branch": (
        "if day:\n    @udf('double')\n    def parse(x):\n        return LOCK",
        "`LOCK` in parse is a lock",
    ),
    "after a return": ("if day:\n    return 1\nf = udf(clean)", "`LOCK` in clean is a lock"),
    "in a function that the UDF may not call": (
        "def helper(x):\n    import sklearn\n@udf('double')\ndef parse(x):\n    return helper(x)",
        "`sklearn` in helper is imported, and executors don't have it",
    ),
    "a UDF at module level": ("spark.table('t').select(module_udf('x'))", "`LOCK` in clean is a lock"),
    "an object that the callable may change": (
        "HOLDER.clear()\n@udf('double')\ndef parse(x):\n    return HOLDER",
        "`HOLDER['lock']` in parse is a lock",
    ),
    "a loop's variable": (
        "for name in ('a', 'b'):\n    f = udf(lambda x: name)",
        "`name` in <lambda> is set in a loop",
    ),
    "a comprehension's variable": ("fs = [udf(lambda x: n) for n in 'ab']", "`n` in <lambda> is set in a loop"),
    "a variable that a loop assigns": (
        "while day:\n    state = day.pop()\n    @udf('string')\n    def last(x):\n        return state",
        "`state` in last is set in a loop",
    ),
    "a global that is not set yet": (
        "@udf('double')\ndef parse(x):\n    return STATE",
        "`STATE` in parse is set by init() on the worker only",
    ),
}


@pytest.mark.parametrize("name", [*LIKELY, *POSSIBLE])
def test_what_may_fail_is_a_warning(name: str, check: Check) -> None:
    body, message = (LIKELY | POSSIBLE)[name]
    (found,) = check(body)
    assert message in found


VALID = {
    "what the callable itself does": "import sklearn\nwith LOCK:\n    clean(TABLE)\nairy.shout('x')",
    "functions that it calls itself": "def mine(x):\n    import sklearn\n    return LOCK\nmine(kind)",
    "another function named udf": "def udf(f):\n    return f\nf = udf(clean)",
    "an import that may fail": (
        "@udf('double')\ndef parse(x):\n    try:\n        import sklearn\n    except ImportError:\n        return None"
    ),
    "a global that it sets": "init()\n@udf('double')\ndef parse(x):\n    return STATE, LATER",
    "a global that a called function sets": "prepare()\n@udf('double')\ndef parse(x):\n    return STATE, LATER",
    "a local variable": "lock = kind\n@udf('double')\ndef parse(x):\n    return lock",
    "modules that executors have": "@udf('double')\ndef parse(x):\n    import json, pandas, pyspark.sql\n    return x",
    "modules that it sends": (
        "spark.addArtifacts('x.py', pyfile=True)\n@udf('double')\ndef parse(x):\n    import airy, sklearn\n    return x"
    ),
    "a plain function": "f = udf(fine)",
    "another object's udf": "f = Guarded.udf(clean)\nspark.range(1).select(f('id')).collect()",
    "a package that the UDF installs": (
        "@udf('double')\ndef parse(x):\n    import subprocess\n    subprocess.run(['pip'])\n    import sklearn"
        + USE.format("parse")
    ),
    "a cached function": "f = udf(cached)\ng = udf(lambda x: cached(x))",
    "a loop with an action": "for name in 'ab':\n    spark.range(1).select(udf(lambda x: name)('id')).collect()",
    "a loop that writes": "for name in 'ab':\n    day.select(udf(lambda x: name)('id')).writeTo('t').append()",
    "a value of its own": "for name in 'ab':\n    f = udf(lambda x, name=name: name)",
    "a loop that ends": ("for name in 'ab':\n    if name == day:\n        f = udf(lambda x: name)\n        break"),
    "a loop that calls a function of its own": (
        "for name in 'ab':\n    f = udf(lambda x: name)\n    prepare(spark.range(1).select(f('id')))"
    ),
    "an object that asks for its task": ("@udf('long')\ndef parse(x):\n    return TASK" + USE.format("parse")),
    "any object's foreach": "day.foreach(clean)",
    "a path that it adds": (
        "@udf('double')\ndef parse(x):\n    import sys\n    sys.path.append('/a')\n    import sklearn"
    ),
    "files that a helper sends": ("ship(spark)\n@udf('double')\ndef parse(x):\n    import sklearn\n    return x"),
}


@pytest.mark.parametrize("name", VALID)
def test_valid_code_is_not_reported(name: str, check: Check) -> None:
    assert check(VALID[name]) == []


def test_without_a_known_environment_only_modules_of_the_dag_are_reported(check: Check) -> None:
    body = "@udf('double')\ndef parse(x):\n    import sklearn\n    import airy\n    return x"
    (found,) = check(body, environment=None)
    assert "`airy` in parse is imported" in found


@pytest.mark.parametrize("kind", ["partial", "object", "method"])
def test_partials_objects_and_methods_are_checked(kind: str) -> None:
    from pyspark.sql.connect.functions import udf

    lock = threading.Lock()

    class Job:
        def __call__(self, spark: Any) -> Any:
            f: Any = udf(lambda x: lock)
            return spark.range(1).select(f("id")).collect()

    callables: dict[str, Any] = {"partial": functools.partial(Job(), 1), "object": Job(), "method": Job().__call__}
    (found,) = check_udfs(callables[kind], ExecutorModules())
    assert "`lock` in <lambda> is a lock" in str(found)


def test_nothing_is_pickled(check: Check) -> None:
    assert check("@udf('double')\ndef parse(x):\n    return ONCE" + USE.format("parse")) == []


def test_callables_without_source_are_not_checked(check: Check) -> None:
    class Strange:
        def __call__(self) -> None: ...

    assert check_udfs(Strange(), ExecutorModules()) == []
    assert check_udfs(eval("lambda spark: spark"), ExecutorModules()) == []


class Unbound:
    """A proxy like those of web frameworks, which have no class where nothing is bound."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("nothing is bound")


@pytest.mark.parametrize("kind", [threading.Lock, Unbound])
def test_an_error_of_the_pickler_is_explained_or_kept(kind: Callable[[], object]) -> None:
    value = kind()
    with pytest.raises(Exception) as raised:  # noqa: PT011 (what the pickler raises)
        CloudPickleSerializer().dumps((lambda x: value, "long"))
    explained = explain_pickling_error(raised.value)
    if kind is Unbound:
        assert explained is None
    else:
        assert "`value` in <lambda> is a lock" in str(explained)
