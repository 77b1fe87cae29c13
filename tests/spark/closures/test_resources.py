"""Objects that belong to one process are found, and only these."""

from __future__ import annotations

import io
import logging
import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql.types import StringType

from airflow_provider_sparkdeps.spark.closures.report import inspect_closure


def make_generator() -> Any:
    yield 1


def session_like(kind: str) -> Any:
    """Return an object of a class that needs a server; its methods are not called."""
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.session import SparkSession

    return object.__new__({"SparkSession": SparkSession, "DataFrame": DataFrame}[kind])


RESOURCES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "session": (
        lambda: session_like("SparkSession"),
        "is a SparkSession, which can't be pickled",
        "executors can't run queries",
    ),
    "frame": (lambda: session_like("DataFrame"), "is a DataFrame, which can't be pickled", "Join with it"),
    "lock": (threading.Lock, "is a lock, which can't be pickled", "Create it inside the function"),
    "event": (threading.Event, "is a lock, which can't be pickled", "Create it inside the function"),
    "thread": (threading.Thread, "is a thread, which can't be pickled", "Create it inside the function"),
    "file": (lambda: Path(os.devnull).open("w"), "is an open file, which can't be pickled", "Read it in the callable"),  # noqa: SIM115
    "socket": (socket.socket, "is a socket, which can't be pickled", "Create it inside the function"),
    "database": (lambda: sqlite3.connect(":memory:"), "is a database connection", "Create it inside the function"),
    "within": (
        lambda: {"a": [threading.Lock()]},
        "can't be pickled (it holds a lock)",
        "Create it inside the function",
    ),
    "other": (make_generator, "can't be pickled (cannot pickle 'generator' object)", "Create it inside the function"),
}


@pytest.mark.parametrize("name", RESOURCES)
def test_what_belongs_to_this_process_is_found(name: str) -> None:
    make, problem, fix = RESOURCES[name]
    thing = make()

    def helper() -> Any:
        return thing

    report = inspect_closure(lambda: helper())
    (finding,) = report.findings
    assert (finding.name, finding.owner) == ("thing", "<lambda> -> helper")
    assert finding.level == "error"
    assert problem in str(finding)
    assert fix in finding.fix
    assert report.size is None
    assert "can't be pickled" in str(report)
    if name in ("file", "socket", "database"):
        thing.close()


class HasLock:
    """Is pickled without its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Restarting(threading.Thread):
    """Is unpickled as a new thread."""

    def __reduce__(self) -> Any:
        return Restarting, ()


def test_a_column_is_a_warning() -> None:
    from pyspark.sql.connect.functions import col

    column = col("x")
    (finding,) = inspect_closure(lambda: column).findings
    assert (finding.level, finding.name) == ("warning", "column")
    assert "Use it in the query" in finding.fix


def test_objects_that_can_be_pickled_are_not_reported() -> None:
    fine = [HasLock(), Restarting(), logging.getLogger("x"), io.StringIO("x"), StringType(), pd.Series([1])]

    def local(x: int) -> Any:
        import json
        import os.path

        return json, os.path, threading, fine[x]

    fine.append(local)
    assert inspect_closure(local).findings == ()
