"""Runs PySpark's own tests in sessions of one mode, and writes the outcome of each to a file as a line of JSON.

It is a script, because it runs in a process of its own with the tests on `PYTHONPATH`, and imports nothing of `tests`.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import sys
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark.sql.connect.udf
from pyspark.sql.connect.client.core import DefaultChannelBuilder
from pyspark.sql.connect.session import SparkSession as ConnectSession
from pyspark.sql.session import SparkSession
from pyspark.testing import connectutils
from pyspark.util import PythonEvalType

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

_PLAIN_UDFS = (PythonEvalType.SQL_BATCHED_UDF, PythonEvalType.SQL_ARROW_BATCHED_UDF)
# The accumulator of the session that is open.
calls: Any = None


class Result(unittest.TestResult):
    """Writes outcomes as they are known, since the process may be killed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._started = time.monotonic()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._started = time.monotonic()

    def _write(self, test: unittest.TestCase, outcome: str, error: Any = None) -> None:
        # Without Java's stack traces, which hide the cause.
        lines = [line.strip() for line in str(error[1]).splitlines() if not line.startswith("\tat ")] if error else []
        message = f"{error[0].__name__}: {' '.join(lines)[:1000]}" if error else ""
        entry = {"test": test.id(), "outcome": outcome, "message": message}
        with self._path.open("a") as file:
            file.write(json.dumps(entry | {"seconds": round(time.monotonic() - self._started, 1)}) + "\n")

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._write(test, "passed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        self._write(test, "failed", err)

    addFailure = addError

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        if err:
            self._write(test, "failed", err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._write(test, "skipped")


class Opener:
    """Opens a session of ours where a test starts a local server, or asks for the session of its class."""

    def __init__(self, mode: str, url: str, store: Path | None) -> None:
        self._mode = mode
        self._url = url
        host, _, port = url.removeprefix("sc://").rpartition(":")
        self._host, self._port = host, int(port)
        self._store = store
        self._session: Session | None = None

    def open(self) -> None:
        global calls
        self.close()
        self._session = Session(Endpoint(host=self._host, port=self._port)).__enter__()
        if self._mode == "attached":
            assert self._store
            store = ArchiveStore(self._store)
            (archive,) = store.list_archives()
            attach(self._session, archive, store)
        if self._mode == "accumulator":
            calls = self._session.accumulator("calls")

    def close(self) -> None:
        global calls
        session, self._session, calls = self._session, None, None
        if session:
            session.close()

    def patch(self) -> None:
        """Let `remote("local[4]")` and `remote("sc://localhost")`, which tests write, connect to the server."""
        DefaultChannelBuilder.default_port = staticmethod(lambda: self._port)  # type: ignore[method-assign]
        original = SparkSession.Builder.getOrCreate

        def get_or_create(builder: SparkSession.Builder) -> SparkSession:
            if builder._options.get("spark.remote", "").startswith("local"):
                builder._options["spark.remote"] = self._url
                # With the default of 200, the tests take too long.
                builder._options.setdefault("spark.sql.shuffle.partitions", "2")
                active = ConnectSession.getActiveSession() or ConnectSession._get_default_session()
                if self._mode != "stock" and active is None:
                    self.open()
            return original(builder)

        SparkSession.Builder.getOrCreate = get_or_create  # type: ignore[method-assign,assignment]


def use_no_jvm() -> None:
    """Let suites that compare with a classic session, for which they need a JVM in this process, use their session."""
    connectutils.is_remote_only = lambda: True  # type: ignore[attr-defined]
    # PySpark 4.0 has no such suites.
    reused, mixed = connectutils.ReusedConnectTestCase, getattr(connectutils, "ReusedMixedTestCase", None)
    if mixed is None:
        return

    def set_up(cls: Any) -> None:
        reused.setUpClass.__func__(cls)  # type: ignore[attr-defined]
        cls.connect = cls.spark

    mixed.setUpClass = classmethod(set_up)
    mixed.tearDownClass = classmethod(reused.tearDownClass.__func__)  # type: ignore[attr-defined]


def count_plain_udfs() -> None:
    """Let each plain UDF that is created add to `calls` of the session that it is sent to."""
    cls = pyspark.sql.connect.udf.UserDefinedFunction
    original = cls.__init__

    @functools.wraps(original)
    def init(self: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        original(self, func, *args, **kwargs)
        if self.evalType in _PLAIN_UDFS:

            @functools.wraps(func)
            def counted(*args: Any, **kwargs: Any) -> Any:
                if calls is not None:
                    calls.add(1)
                return func(*args, **kwargs)

            self.func = counted

    cls.__init__ = init  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("names", nargs="+")
    args = parser.parse_args()
    use_no_jvm()
    for name in args.skip:
        module, cls, method = name.rsplit(".", 2)
        # unittest loads what can be called.
        setattr(getattr(importlib.import_module(module), cls), method, None)
    opener = Opener(args.mode, args.url, args.store)
    opener.patch()
    if args.mode == "accumulator":
        count_plain_udfs()
    unittest.defaultTestLoader.loadTestsFromNames(args.names).run(Result(args.results))
    opener.close()
    # Tests leave threads behind.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
