"""Modules and packages of `py_files` on executors."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import on_executors


def test_executors_import_py_files_and_this_process_is_not_changed(session: Session, tmp_path: Path) -> None:
    package = tmp_path / "sparkdeps_test_rules"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from sparkdeps_test_rules.deep import value")
    (package / "deep/__init__.py").write_text("value = 40")
    module = tmp_path / "sparkdeps_test_helper.py"
    module.write_text("two = 2")
    before = list(sys.path)
    add_py_files(session, [package, str(module)])
    assert sys.path == before

    def answer() -> int:
        rules = importlib.import_module("sparkdeps_test_rules")
        return int(rules.value + importlib.import_module("sparkdeps_test_helper").two)

    assert on_executors(session, answer) == ["42", "42"]


def test_py_files_that_could_not_be_imported_are_rejected(session: Session, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "my-module.py").touch()
    (tmp_path / "my-package").mkdir()
    for name in ("notes.txt", "my-module.py", "my-package", "missing"):
        with pytest.raises(InvalidArgumentError, match=rf"{name}' is not a \.py file or a package directory"):
            add_py_files(session, [tmp_path / name])
    twins = [tmp_path / "a" / "twin.py", tmp_path / "b" / "twin.py"]
    for twin in twins:
        twin.parent.mkdir()
        twin.touch()
    with pytest.raises(InvalidArgumentError, match=r"two paths contain twin\.py"):
        add_py_files(session, twins)
