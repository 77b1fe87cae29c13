"""Problems with large values, globals and whole modules are found once, with the way to fix them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from airflow_provider_sparkdeps.spark.closures.report import inspect_closure

from ...support.closures import Bundle, local_scorer
from ...support.manifests import archive_with


def test_a_problem_inside_a_class_is_found_once_at_its_place(bundle: Bundle, tmp_path: Path) -> None:
    module = bundle(
        "classes",
        "import threading\nfrom pandas import DataFrame\nLOCK = threading.Lock()\n\n"
        "class Scorer:\n    def score(self, x):\n        with LOCK:\n            return x\n\n"
        "class Frame(DataFrame):\n    pass\n\nscorer = Scorer()\n\n"
        "def a(x):\n    return scorer.score(x)\n\ndef b(x):\n    return Scorer().score(x)\n\n"
        "def c(x):\n    return Frame(x)\n",
    )
    found = {
        name: inspect_closure(getattr(module, name), archive=archive_with(), root=tmp_path).findings for name in "abc"
    }
    assert [[(each.name, each.owner) for each in findings] for findings in found.values()] == [
        [("LOCK", "a -> scorer -> score")],
        [("LOCK", "b -> Scorer -> score")],
        [("Frame", "c")],
    ]
    assert "contains an object from `pandas.core.frame`, which executors don't have" in found["c"][0].problem


def test_a_large_variable_should_be_broadcast() -> None:
    table = np.ones(1_000_000)
    alias = table
    small = np.ones(1000)

    def helper(x: int) -> Any:
        return table[x]

    report = inspect_closure(lambda x: (helper(x), alias, small))
    (finding,) = report.findings
    assert str(finding) == (
        "`alias` in <lambda> adds 8.0 MB to every query that uses it. Write `alias = broadcast(alias)` in the "
        "callable, and use `alias.value` in the function."
    )
    assert finding.level == "warning"
    assert inspect_closure(helper, large=9_000_000).findings == ()
    scorer = local_scorer()
    scorer.weights = table
    (finding,) = inspect_closure(scorer).findings
    assert finding.name == "self.weights"
    (finding,) = inspect_closure(lambda x: scorer(x)).findings
    assert finding.name == "scorer.weights"


WRITERS = """
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
    module = bundle("writers", WRITERS)
    report = inspect_closure(module.score, root=tmp_path)
    found = {each.name: each for each in report.findings}
    assert found.keys() == {"TABLE", "SIZE"}, "CACHE is set by a captured function, so it is a cache of executors"
    assert found["TABLE"].level == "warning"
    assert "is set by init() on the worker only" in found["TABLE"].problem
    assert "(None now)" in found["TABLE"].problem
    assert "Call init() in the callable before the action" in found["TABLE"].fix
    assert found["SIZE"].level == "note"
    module.init()
    assert {each.level for each in inspect_closure(module.score, root=tmp_path).findings} == {"note"}


def test_a_module_of_the_bundle_that_is_pickled_as_a_whole_is_found(bundle: Bundle, tmp_path: Path) -> None:
    bundle("small", "X = 1\ndef shout(x):\n    return x.upper()\n")
    bundle("airy", "from airflow.sdk import Variable\ndef shout(x):\n    return x.upper()\n")
    bundle("locked", "import threading\nLOCK = threading.Lock()\ndef shout(x):\n    return x.upper()\n")
    module = bundle(
        "importer",
        "import json, small, airy, locked\nfrom small import shout\n\n"
        "def a(x):\n    return small.shout(x)\n\ndef b(x):\n    return airy.shout(x)\n\n"
        "def c(x):\n    return locked.shout(x)\n\ndef d(x):\n    return json.dumps(shout(x))\n",
    )
    found = {
        name: inspect_closure(getattr(module, name), archive=archive_with(), root=tmp_path).findings for name in "abcd"
    }
    assert [each.level for name in "abc" for each in found[name]] == ["note", "error", "error"]
    assert "is a module that is pickled as a whole, with all its globals" in found["a"][0].problem
    assert found["a"][0].fix == "Write `from small import shout` instead."
    assert "is a module that is pickled as a whole, with `airflow." in found["b"][0].problem
    assert found["b"][0].fix == "Write `from airy import shout` instead."
    assert "is pickled as a whole, and can't be pickled (it holds a lock)" in found["c"][0].problem
    assert found["d"] == ()
