"""Window functions and streams, for which Spark starts Python workers outside of the session's directory."""

from __future__ import annotations

import importlib
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import Window
from pyspark.sql.functions import col, pandas_udf, udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.broadcast import broadcast
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import Built, homes, open_session, six_on_executors, wait_for

See = Callable[[Any], str]


@pytest.fixture(scope="module")
def six15(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """With what pandas UDFs need."""
    return build(tmp_path_factory.mktemp("store"), "six==1.15.0", "pandas<3", "pyarrow")


@pytest.fixture(scope="module")
def six16(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("store"), "six==1.16.0")


def build(directory: Path, *requirements: str) -> Built:
    store = ArchiveStore(directory)
    archive = store.build(VenvEnvironment(requirements), timeout=300)
    return Built(archive, store.fetch(archive))


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedServer]:
    """A server whose executors a test may kill."""
    with EmbeddedServer("local-cluster[2,1,1024]") as server:
        yield server


def see_six() -> See:
    """Return a function for UDFs, which is pickled by value."""

    def see(_: Any) -> str:
        import six

        return f"{pathlib.Path.cwd().name}: {six.__version__}"

    return see


def everything_in(session: Session, directory: Path) -> See:
    """Return a function for UDFs that uses six, py_files, a small broadcast value and an accumulator."""
    (directory / "sparkdeps_test_rules.py").write_text("two = 2")
    add_py_files(session, [directory / "sparkdeps_test_rules.py"])
    small = broadcast(session, [40])
    calls = session.accumulator("calls")

    def see(_: Any) -> str:
        import six

        rules = importlib.import_module("sparkdeps_test_rules")
        calls.add(1)
        return f"{pathlib.Path.cwd().name}: {six.__version__}, {small.value[0] + rules.two}"

    return see


def in_windows(session: Session, see: See) -> dict[str, int]:
    """Return what windows over 8 partitions see, and in how many rows."""

    @pandas_udf("string")  # type: ignore[untyped-decorator]
    def window(values: pd.Series) -> str:
        return see(values)

    rows = session.spark.range(8, numPartitions=8)
    seen = rows.select("id", window("id").over(Window.partitionBy("id")).alias("seen"))
    return count(row[1] for row in seen.collect())


def count(seen: Iterator[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in seen:
        found[each] = found.get(each, 0) + 1
    return found


class Stream:
    """A query whose rows say what its UDF sees. Each trigger has 8 rows in 4 partitions."""

    def __init__(self, session: Session, see: See, name: str) -> None:
        self.session = session
        self.name = name
        source = session.spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 8)
        rows = source.option("numPartitions", 4).load().select(udf(see, "string")(col("value")).alias("seen"))
        self.query = rows.writeStream.format("memory").queryName(name).trigger(processingTime="1 second").start()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.query.stop()

    def next_rows(self, triggers: int = 1) -> dict[str, int]:
        """Return what the rows of further triggers see."""
        before = len(self._rows())
        deadline = time.monotonic() + 120
        while len(rows := self._rows()) < before + 8 * triggers:
            assert self.query.isActive, self.query.exception()
            assert time.monotonic() < deadline, self.query.status
            time.sleep(0.5)
        return count(iter(rows[before:]))

    def _rows(self) -> list[str]:
        return [row[0] for row in self.session.spark.table(self.name).collect()]


def executors(server: EmbeddedServer) -> set[str]:
    """Return the names of the directories of the executors that run."""
    return {path.name for path in (server.work_dir / "spark/work").glob("app-*/*") if _is_used(path)}


def _is_used(directory: Path) -> bool:
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if cwd.readlink() == directory:
                return True
        except OSError:
            continue
    return False


def kill_an_executor(server: EmbeddedServer) -> str:
    """Kill an executor, and wait until another one has taken its place. Return the name of the new one."""
    before = executors(server)
    (directory,) = (server.work_dir / "spark/work").glob(f"app-*/{min(before)}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_java = b"CoarseGrainedExecutorBackend" in (process / "cmdline").read_bytes()
            if is_java and (process / "cwd").readlink() == directory:
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
    wait_for(lambda: len(executors(server) - before) == 1)
    (new,) = executors(server) - before
    return new


def test_windows_have_all_that_a_session_has_on_executors_that_join_later_too(
    own_server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    with open_session(own_server) as session:
        six15.attach(session)
        see = everything_in(session, tmp_path)
        first = in_windows(session, see)
        assert first.keys() == {f"{name}: 1.15.0, 42" for name in executors(own_server)}
        new = kill_an_executor(own_server)
        wait_for(lambda: f"{new}: 1.15.0, 42" in in_windows(session, see))
        assert session.accumulator_values["calls"] % 8 == 0


def test_a_stream_that_is_the_first_query_of_a_session_has_all_that_the_session_has(
    own_server: EmbeddedServer, six15: Built, six16: Built, tmp_path: Path
) -> None:
    with open_session(own_server) as session, open_session(own_server) as other:
        six15.attach(session)
        six16.attach(other)
        see = everything_in(session, tmp_path)
        names = sorted(executors(own_server))
        with Stream(session, see, "first") as stream, Stream(other, see_six(), "other") as other_stream:
            assert stream.next_rows(3).keys() == {f"{name}: 1.15.0, 42" for name in names}
            assert other_stream.next_rows().keys() == {f"{name}: 1.16.0" for name in names}
            # A stream keeps its environment.
            six16.attach(session)
            assert [*six_on_executors(session).values()] == ["1.16.0", "1.16.0"]
            assert stream.next_rows(2).keys() == {f"{name}: 1.15.0, 42" for name in names}


def test_a_stream_outlives_what_spark_and_executors_remove_of_its_session(
    own_server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    with open_session(own_server) as session:
        six15.attach(session)
        see = everything_in(session, tmp_path)
        with Stream(session, see, "lasting") as stream:
            seen = stream.next_rows().keys()
            assert len(six_on_executors(session)) == 2
            for directory in (own_server.work_dir / "spark/work").glob("app-*/*/*-*-*-*-*"):
                shutil.rmtree(directory)
            assert stream.next_rows(3).keys() == seen


def test_an_environment_that_an_executor_has_removed_is_unpacked_again_for_a_window(
    own_server: EmbeddedServer, six15: Built
) -> None:
    with open_session(own_server) as session:
        six15.attach(session)
        for home in homes(own_server, six15):
            shutil.rmtree(home, ignore_errors=True)
        assert in_windows(session, see_six()).keys() == {f"{name}: 1.15.0" for name in executors(own_server)}


def test_foreach_of_a_stream_that_is_the_first_query_of_a_session_has_all_that_the_session_has(
    own_server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    with open_session(own_server) as session:
        six15.attach(session)
        see = everything_in(session, tmp_path)

        def write(row: Any) -> None:
            (reports / str(row.value)).write_text(see(row))

        source = session.spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 8)
        query = source.option("numPartitions", 4).load().writeStream.foreach(write).start()
        try:
            deadline = time.monotonic() + 120
            while len(seen := [file.read_text() for file in reports.iterdir()]) < 16:
                assert query.isActive, query.exception()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            query.stop()
        directory = session.rpc.server_side_id(session.id)
    assert set(seen) - {""} == {f"{directory}: 1.15.0, 42"}
