"""Modules of the DAG are pickled by value, and nothing else in the process changes."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pickle
import pkgutil
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
from pyspark import cloudpickle

from airflow_provider_sparkdeps.spark.closures.by_value import is_below, pickle_by_value
from airflow_provider_sparkdeps.spark.closures.largest_variable import globals_of

CACHED = (
    "import functools, threading\nLOCK = threading.Lock()\n@functools.lru_cache\ndef load(x):\n    return LOCK and x\n"
)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A DAG's directory, and one of installed packages."""
    dags, packages = tmp_path / "dags", tmp_path / "lib" / "python3.11" / "site-packages"
    for directory in (dags, packages):
        directory.mkdir(parents=True)
        monkeypatch.syspath_prepend(directory)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = {*sys.modules}
    yield dags, packages
    for name in {*sys.modules} - before:
        del sys.modules[name]


def write(file: Path, text: str) -> str:
    file.write_text(text)
    importlib.invalidate_caches()
    return file.stem


def test_a_cached_function_of_a_package_is_pickled_by_its_name(places: tuple[Path, Path]) -> None:
    name = write(places[1] / "cached_package.py", CACHED)
    with pickle_by_value(places[0]):
        load = importlib.import_module(name).load
        assert globals_of(cloudpickle.dumps(load)) == {(name, "load")}
    mine = write(places[0] / "cached_dag.py", CACHED.replace("LOCK and x", "x"))
    with pickle_by_value(places[0]):
        load = importlib.import_module(mine).load
        assert (mine, "load") not in globals_of(cloudpickle.dumps(load))


def test_modules_that_are_sent_with_py_files_are_pickled_by_their_name(places: tuple[Path, Path]) -> None:
    write(places[0] / "sent_early.py", "def parse(x):\n    return x\n")
    early = importlib.import_module("sent_early")
    (places[0] / "sent_package").mkdir()
    write(places[0] / "sent_package" / "__init__.py", "")
    write(places[0] / "sent_package" / "late.py", "def parse(x):\n    return x\n")
    other = write(places[0] / "sent_other.py", "def parse(x):\n    return x\n")
    with pickle_by_value(places[0], sent=("sent_early", "sent_package")):
        late = importlib.import_module("sent_package.late")
        for module in (early, late):
            assert globals_of(cloudpickle.dumps(module.parse)) == {(module.__name__, "parse")}
        assert (other, "parse") not in globals_of(cloudpickle.dumps(importlib.import_module(other).parse))


def test_plain_pickles_are_as_before(places: tuple[Path, Path]) -> None:
    name = write(places[0] / "plain_dag.py", CACHED)
    module = importlib.import_module(name)
    with pickle_by_value(places[0]), pickle_by_value(places[0]):
        assert pickle.loads(pickle.dumps(module.load)) is module.load
        assert pickle.loads(pickle.dumps(functools.lru_cache)) is functools.lru_cache
    assert functools._lru_cache_wrapper not in cloudpickle.Pickler.dispatch_table


def test_a_loader_has_what_it_had(places: tuple[Path, Path]) -> None:
    name = write(places[0] / "loaded_dag.py", "NAME = __name__\n")
    with pickle_by_value(places[0]):
        assert runpy.run_module(name)["NAME"] == name
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        assert cast(Any, spec.loader).get_source(name)
        assert pkgutil.get_data(name, "loaded_dag.py") == b"NAME = __name__\n"
        other = importlib.util.spec_from_file_location("not_in_sys_modules", places[0] / "loaded_dag.py")
        assert other
        assert other.loader
        other.loader.exec_module(importlib.util.module_from_spec(other))
        del sys.modules[name]
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_lazy_modules_stay_lazy(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"{name} was looked up")

    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    monkeypatch.setitem(sys.modules, "no_module", object())
    with pickle_by_value(places[0]):
        pass


@pytest.mark.parametrize(
    ("file", "below"),
    [
        ("helpers.py", True),
        ("python/lib/helpers.py", True),
        (".venv/lib/python3.11/site-packages/numpy/__init__.py", False),
        ("usr/lib/python3/dist-packages/numpy/__init__.py", False),
        (".pyenv/versions/3.11.7/lib/python3.11/json/__init__.py", False),
        ("env/lib64/python3.13t/json/__init__.py", False),
    ],
)
def test_an_installed_module_below_the_root_is_no_source(tmp_path: Path, file: str, below: bool) -> None:
    assert is_below(tmp_path, str(tmp_path / file)) is below
