"""Functions that Spark runs in the driver's own Python, with packages of environments that the server lacks."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql.datasource import DataSource, DataSourceReader, DataSourceWriter, InputPartition, WriterCommitMessage
from pyspark.sql.functions import udtf
from pyspark.sql.streaming.stateful_processor import StatefulProcessor
from pyspark.sql.types import StructType
from pyspark.sql.udtf import AnalyzeResult

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.attach import detach
from airflow_provider_sparkdeps.spark.broadcast import broadcast
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.driver_python import driver, functions
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.pyspark_compat import schema_of_udtf
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import Built, open_session
from ...support.package_index import make_wheel


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Returns an environment with a version of `sparkdeps-only-there`, which the server's Python does not have."""
    directory = tmp_path_factory.mktemp("builds")
    store = ArchiveStore(directory / "store")

    def build(version: str) -> Built:
        wheel = make_wheel(directory, "sparkdeps-only-there", version)
        requirements = [str(wheel), "pandas<3", "pyarrow"]
        env_vars = {"MARK": version, f"ONLY_{version[0]}": "x"}
        archive = store.build(VenvEnvironment(requirements, env_vars=env_vars), timeout=300)
        return Built(archive, store.fetch(archive))

    return build


@pytest.fixture(scope="module")
def first(build: Callable[[str], Built]) -> Built:
    return build("1.0")


@pytest.fixture(scope="module")
def second(build: Callable[[str], Built]) -> Built:
    return build("2.0")


@pytest.fixture
def own_session(server: EmbeddedServer) -> Iterator[Session]:
    with open_session(server) as session:
        yield session


def seen_in(session: Session) -> Callable[[], str]:
    """Return a function, pickled by value, for what Spark runs."""
    small, large = broadcast(session, [40]), broadcast(session, bytes(9_000_000))

    def see() -> str:
        package = importlib.import_module("sparkdeps_only_there")
        return f"{package.VERSION} {os.environ['MARK']} {small.value[0]} {len(large.value)}"

    return see


EXPECTED = "{0} {0} 40 9000000"


def schema_and_rows_of_a_udtf(see: Callable[[], str]) -> tuple[list[str], list[str]]:
    class Seen:
        @staticmethod
        def analyze() -> AnalyzeResult:
            return AnalyzeResult(StructType().add(see(), "string"))

        def eval(self) -> Iterator[tuple[str]]:
            yield (see(),)

    make_rows: Any = udtf(Seen)
    rows = make_rows()
    return rows.columns, [row[0] for row in rows.collect()]


def test_analyze_of_a_udtf_has_the_packages_of_the_environment_that_is_attached(
    own_session: Session, first: Built, second: Built
) -> None:
    for built, version in ((first, "1.0"), (second, "2.0"), (first, "1.0")):
        built.attach(own_session)
        expected = EXPECTED.format(version)
        assert schema_and_rows_of_a_udtf(seen_in(own_session)) == ([expected], [expected])
    clone: Any = own_session.spark.cloneSession()
    second.attach(own_session)
    assert analyzed(clone) == "1.0 1.0 x None", "a clone keeps its environment"
    assert analyzed(own_session.spark) == "2.0 2.0 None x"
    detach(own_session)
    assert analyzed(own_session.spark) == "None None None None"
    clone.stop()
    with pytest.raises(PySparkException, match="No module named 'sparkdeps_only_there'"):
        schema_and_rows_of_a_udtf(seen_in(own_session))


def test_a_limit_of_memory_that_the_user_has_set_is_kept(own_session: Session, first: Built) -> None:
    name = "spark.sql.planner.pythonExecution.memory"
    own_session.spark.conf.set(name, "2g")
    first.attach(own_session)
    assert own_session.spark.conf.get(name) == "2049"
    assert analyzed(own_session.spark) == "1.0 1.0 x None"
    detach(own_session)
    assert own_session.spark.conf.get(name) == "2g"


def analyzed(spark: Any) -> str:
    """Return what `analyze` sees: the version of the package, MARK, and the variables of either environment."""

    class Seen:
        @staticmethod
        def analyze() -> AnalyzeResult:
            import os

            try:
                import numpy  # noqa: F401 (native code, which a process loads once)

                version = importlib.import_module("sparkdeps_only_there").VERSION
            except ImportError:
                version = None
            names = ("MARK", "ONLY_1", "ONLY_2")
            seen = " ".join([str(version), *(str(os.environ.get(name)) for name in names)])
            return AnalyzeResult(StructType().add(seen, "string"))

        def eval(self) -> Iterator[tuple[str]]:
            yield ("a",)

    return str(schema_of_udtf(spark, Seen).names[0])


def make_source(see: Callable[[], str], report: Path) -> type[DataSource]:
    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            return [InputPartition(see())] * 2

        def read(self, partition: InputPartition) -> Iterator[tuple[str]]:
            yield (f"{partition.value} {see()}",)

    class Writer(DataSourceWriter):
        def write(self, rows: Iterator[Any]) -> WriterCommitMessage:
            message: Any = WriterCommitMessage()
            message.seen = [see() for _ in rows]
            return message  # type: ignore[no-any-return]

        def commit(self, messages: Any) -> None:
            report.write_text("\n".join([see(), *(seen for message in messages for seen in message.seen)]))

    class Source(DataSource):
        @classmethod
        def name(cls) -> str:
            return "sparkdeps_test_source"

        def schema(self) -> str:
            return f"`{see()}` string"

        def reader(self, schema: StructType) -> DataSourceReader:
            return Reader()

        def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
            return Writer()

    return Source


def test_a_data_source_is_planned_read_and_committed_in_the_environment(
    own_session: Session, first: Built, tmp_path: Path
) -> None:
    first.attach(own_session)
    spark, expected = own_session.spark, EXPECTED.format("1.0")
    spark.dataSource.register(make_source(seen_in(own_session), tmp_path / "report"))
    rows = spark.read.format("sparkdeps_test_source").load()
    assert rows.columns == [expected]
    assert [row[0] for row in rows.collect()] == [f"{expected} {expected}"] * 2
    spark.range(2).selectExpr("string(id)").write.format("sparkdeps_test_source").mode("append").save()
    assert (tmp_path / "report").read_text().splitlines() == [expected] * 3


def run_batch(session: Session, function: Callable[[DataFrame, int], None], report: Path) -> str:
    """Return what a function for `foreachBatch` writes into a file."""
    source = session.spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 8).load()
    query = source.writeStream.foreachBatch(function).trigger(processingTime="1 second").start()
    try:
        deadline = time.monotonic() + 60
        while not (report.exists() and report.read_text()):
            assert query.isActive, query.exception()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return report.read_text().splitlines()[0]
    finally:
        query.stop()


def test_foreach_batch_has_packages_variables_py_files_and_broadcast_values(
    own_session: Session, first: Built, tmp_path: Path
) -> None:
    first.attach(own_session)
    (tmp_path / "sparkdeps_test_batch.py").write_text("two = 2")
    add_py_files(own_session, [tmp_path / "sparkdeps_test_batch.py"])
    see, report = seen_in(own_session), tmp_path / "report"

    def batch(rows: DataFrame, _: int) -> None:
        two = importlib.import_module("sparkdeps_test_batch").two
        line = f"{see()} {two} {rows.count()}\n"
        report.write_text(line)

    assert run_batch(own_session, batch, report) == EXPECTED.format("1.0") + " 2 8"


def test_a_processor_of_transform_with_state_has_the_environment_on_the_driver_and_on_executors(
    own_session: Session, first: Built, tmp_path: Path
) -> None:
    first.attach(own_session)
    (tmp_path / "sparkdeps_test_state.py").write_text("two = 2")
    add_py_files(own_session, [tmp_path / "sparkdeps_test_state.py"])
    see, spark = seen_in(own_session), own_session.spark

    class Processor(StatefulProcessor):
        def init(self, handle: Any) -> None:
            self.seen = see()

        def handleInputRows(self, key: Any, rows: Any, timers: Any) -> Iterator[pd.DataFrame]:
            two = importlib.import_module("sparkdeps_test_state").two
            yield pd.DataFrame({"seen": [f"{self.seen} {see()} {two}"]})

        def close(self) -> None: ...

    provider = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    spark.conf.set("spark.sql.streaming.stateStore.providerClass", provider)
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    source = spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 4).load()
    processed = source.groupBy("value").transformWithStateInPandas(Processor(), "seen string", "Update", "None")
    query = processed.writeStream.format("memory").queryName("seen").outputMode("update").start()
    try:
        deadline = time.monotonic() + 90
        while not (rows := spark.table("seen").take(1)):
            assert query.isActive, str(query.exception())
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        query.stop()
    expected = EXPECTED.format("1.0")
    assert rows[0][0] == f"{expected} {expected} 2"


def test_of_two_versions_of_a_py_file_analyze_sees_the_last_one(
    own_session: Session, first: Built, tmp_path: Path
) -> None:
    first.attach(own_session)
    for version in ("b", "a", "d", "c"):
        file = tmp_path / version / "sparkdeps_test_rules.py"
        file.parent.mkdir()
        file.write_text(f"version = {version!r}")
        add_py_files(own_session, [file])
    seen = schema_and_rows_of_a_udtf(lambda: importlib.import_module("sparkdeps_test_rules").version)
    assert seen == (["c"], ["c"])


def test_broadcast_values_can_be_read_in_foreach_batch_without_an_environment(
    own_session: Session, tmp_path: Path
) -> None:
    small, large = broadcast(own_session, [40]), broadcast(own_session, bytes(9_000_000))
    report = tmp_path / "report"

    def batch(rows: DataFrame, _: int) -> None:
        line = f"{small.value[0]} {len(large.value)} {rows.count()}\n"
        report.write_text(line)

    assert run_batch(own_session, batch, report) == "40 9000000 8"


def test_a_driver_that_cannot_use_the_environment_is_reported_with_the_function(
    own_session: Session, first: Built, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A fake: this machine has no server with another Python.
    reason = "the driver has Python 3.10, and the environment has 3.11"
    monkeypatch.setattr(functions, "_ask_driver", lambda *_: {"session": "/nowhere", "error": reason})
    first.attach(own_session)
    for _ in range(2):
        with pytest.raises(PySparkException, match="No module named 'sparkdeps_only_there'"):
            schema_and_rows_of_a_udtf(seen_in(own_session))
    assert [record.getMessage() for record in caplog.records if "driver" in record.getMessage()] == [
        "Spark runs `analyze` of UDTF schema_and_rows_of_a_udtf.<locals>.Seen in the Python of its driver, where "
        f"packages of the environment are missing: {reason}."
    ]
    # To find the name, the function is unpickled in this process, which must not change.
    assert driver.SESSION_DIRECTORY not in os.environ
