"""Modules that executors do not have are found, where it is known what they have."""

from __future__ import annotations

import copyreg
import functools
from pathlib import Path
from typing import Any

import pytest
from pyspark import cloudpickle

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.archives.manifest import Contents
from airflow_provider_sparkdeps.spark.closures.by_value import is_below, pickle_by_value
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.report import inspect_closure

from ...support.closures import Bundle, rows
from ...support.manifests import archive_with


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


def test_a_module_that_is_not_in_the_environment_is_found(bundle: Bundle, tmp_path: Path) -> None:
    source = Path(__file__).read_text()
    start = source.index("def lazy(")
    body = source[start : source.index("\n\n\n", start)]
    module = bundle(
        "imports", f"from typing import Any\nimport pandas\n\n{body}\n\ndef score(x):\n    return lazy(x), pandas\n"
    )
    report = inspect_closure(module.score, archive=archive_with("numpy"), root=tmp_path)
    found = {each.name: (each.level, each.owner) for each in report.findings}
    assert found == {
        "pandas": ("error", "score"),
        "missing_always.sub": ("warning", "score -> lazy"),
        "missing_sometimes": ("note", "score -> lazy"),
    }
    assert report.findings[0].level == "error"
    text = str(report)
    assert "Add pandas to the environment" in text.replace("\n", " ")
    assert rows(report)["score: pandas"].found is False
    assert (
        inspect_closure(module.lazy, archive=archive_with("numpy", "missing_always"), root=tmp_path).findings[0].level
        == "note"
    )


@pytest.mark.parametrize(
    "unknown",
    [
        None,
        archive_with(contents=Contents(files=1)),
        archive_with("numpy", interpreter=None),
    ],
    ids=["no environment", "an old manifest", "the executors' own Python"],
)
def test_modules_are_not_reported_where_it_is_not_known_what_executors_have(
    unknown: Archive | None, bundle: Bundle, tmp_path: Path
) -> None:
    module = bundle("unknowns", "import pandas\n\ndef score(x):\n    import missing_always\n    return pandas\n")
    report = inspect_closure(module.score, archive=unknown, root=tmp_path)
    assert report.findings == ()
    assert rows(report)["score: pandas"].found is None


def test_modules_that_only_the_worker_has_are_found(bundle: Bundle, tmp_path: Path) -> None:
    bundle("neighbour", "def helper(x):\n    return x\n")
    module = bundle(
        "workers",
        "from airflow.sdk import Variable\nfrom neighbour import helper\n\n"
        "def lazily(x):\n    from neighbour import helper\n    return helper(x)\n\n"
        "def asks(x):\n    return Variable.get(x)\n\n"
        "def fine(x):\n    return helper(x)\n",
    )
    known = archive_with("numpy")
    (finding,) = inspect_closure(module.lazily, archive=known, root=tmp_path).findings
    assert (finding.level, finding.name) == ("error", "neighbour")
    assert "Write `from neighbour import ...` at the top of the file" in finding.fix
    assert inspect_closure(module.lazily, root=tmp_path).findings[0].level == "warning"
    assert inspect_closure(module.lazily, archive=known, root=tmp_path, py_files=["x/neighbour.py"]).findings == ()
    (finding,) = inspect_closure(module.asks, archive=known, root=tmp_path).findings
    assert (finding.level, finding.name) == ("error", "Variable")
    assert "Airflow is installed on workers only" in finding.fix
    assert inspect_closure(module.asks, root=tmp_path).findings[0].level == "warning"
    assert inspect_closure(module.fine, archive=known, root=tmp_path).findings == ()


def test_a_link_out_of_the_bundle_is_a_module_of_the_bundle(tmp_path: Path) -> None:
    bundle, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    for directory in (bundle, elsewhere / "package"):
        directory.mkdir(parents=True)
    (elsewhere / "helper.py").touch()
    (bundle / "helper.py").symlink_to(elsewhere / "helper.py")
    (bundle / "package").symlink_to(elsewhere / "package")
    (tmp_path / "link").symlink_to(bundle)
    for root in (bundle, tmp_path / "link"):
        assert is_below(root, str(bundle / "helper.py"))
        assert is_below(root, str(root / "package" / "__init__.py"))
        assert not is_below(root, str(elsewhere / "helper.py"))
        assert not is_below(root, str(root / "venv/lib/site-packages/six.py"))


def test_a_file_on_pythonpath_should_be_sent_with_py_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sparkdeps_loose.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    modules = ExecutorModules(root=tmp_path / "bundle")
    assert modules.is_loose("sparkdeps_loose.part")
    expected = f"It is a file of this worker: send it with py_files=['{tmp_path}/sparkdeps_loose.py']."
    assert modules.how_to_add("sparkdeps_loose") == expected
    for module in ("json", "pyspark.sql", "numpy", "no_such_module", "__main__"):
        assert not modules.is_loose(module)


def test_a_nested_block_leaves_what_the_outer_one_registered(bundle: Bundle, tmp_path: Path) -> None:
    module = bundle("nesting", "import functools\n@functools.cache\ndef f(x):\n    return x\n")
    with pickle_by_value(tmp_path):
        inspect_closure(lambda x: module.f(x), root=tmp_path)
        pickled = cloudpickle.dumps(module.f)
    assert b"nesting\x94\x8c\x01f" not in pickled
    assert "nesting" not in cloudpickle.list_registry_pickle_by_value()
    assert functools._lru_cache_wrapper not in copyreg.dispatch_table
