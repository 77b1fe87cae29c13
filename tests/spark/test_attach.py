"""Archives that become a session's interpreter, on real executors; the launcher's hard cases, by running its script."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyspark
import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import lit, pandas_udf, udf, udtf
from pyspark.util import PythonEvalType

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.attach import add_py_files, attach_payload, detach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session

from ..support.executors import (
    Built,
    commands,
    flip_a_bit,
    homes,
    needs_unshare,
    never,
    open_session,
    remains,
    six_on_executors,
    wait_for,
)

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    store = ArchiveStore(tmp_path_factory.mktemp("store"))

    def build(*requirements: str, **options: Any) -> Built:
        archive = store.build(VenvEnvironment(requirements=requirements, **options), timeout=300)
        return Built(archive, store.fetch(archive))

    return build


@pytest.fixture(scope="module")
def six15(build: Callable[..., Built]) -> Built:
    """Without pyarrow."""
    return build("six==1.15.0")


@pytest.fixture(scope="module")
def six16(build: Callable[..., Built]) -> Built:
    """With pandas and pyarrow."""
    return build("six==1.16.0", "pandas<3", "pyarrow")


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Executors of two cores without any Python: the one of the builds hidden, none on PATH, and litter in HOME."""
    is_systems = sys.base_prefix == "/usr"
    hidden = Path(f"/usr/lib/python{MINOR}" if is_systems else sys.base_prefix)
    if Path(pyspark.__file__).is_relative_to(hidden):
        pytest.skip(f"the server's own jars lie in {hidden}, which is to be hidden: run the tests in a venv")
    hide = f"mount -t tmpfs none '{hidden}'"
    if is_systems:
        hide += f" && mount --bind /dev/null {os.path.realpath(sys.executable)}"
    directory = tmp_path_factory.mktemp("bare")
    litter = directory / f".local/lib/python{MINOR}/site-packages"
    litter.mkdir(parents=True)
    (litter / "six.py").write_text("__version__ = 'of the user of the executor'")
    environ = {**os.environ, "HOME": str(directory), "PATH": str(commands(directory / "bin", without=("python*",)))}
    prefix = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh"]
    with EmbeddedServer("local-cluster[2,2,1024]", command_prefix=prefix, environ=environ) as server:
        yield server


@needs_unshare
def test_executors_without_any_python_run_the_archives(bare_server: EmbeddedServer, six15: Built) -> None:
    with open_session(bare_server) as session:
        with pytest.raises(PySparkException):
            six_on_executors(session)
        assert six15.attach(session)
        assert six_on_executors(session) == dict.fromkeys(homes(bare_server, six15), "1.15.0")


@needs_unshare
def test_sessions_at_the_same_time_unpack_an_archive_once(
    bare_server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    meeting = threading.Barrier(2, timeout=60)

    def use(_: int) -> dict[Path, str]:
        with open_session(bare_server) as session:
            assert built.attach(session)
            meeting.wait()
            return six_on_executors(session)

    expected = dict.fromkeys(homes(bare_server, built), "1.15.0")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [expected, expected]
    assert [remains(home) for home in expected] == [[], []]


def test_a_later_session_finds_the_archive_unpacked(server: EmbeddedServer, six15: Built) -> None:
    def when_unpacked() -> list[tuple[int, int]]:
        return [(home.stat().st_ino, home.stat().st_ctime_ns) for home in sorted(homes(server, six15))]

    with open_session(server) as first:
        six15.attach(first)
        six_on_executors(first)
        before = when_unpacked()
    with open_session(server) as second:
        assert six15.attach(second)
        assert six_on_executors(second) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert when_unpacked() == before


def test_a_session_switches_between_versions_and_back_without_sending_again(
    session: Session, server: EmbeddedServer, six15: Built, six16: Built
) -> None:
    assert six15.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert six16.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six16), "1.16.0")
    assert not attach_payload(session, six15.archive, payload=never)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")


def test_by_reference_the_cluster_reads_the_payload_and_nothing_is_sent(
    session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    named = built.payload.rename(tmp_path / built.archive.payload)
    assert attach_payload(session, built.archive, payload=never, uri=named.as_uri())
    assert six_on_executors(session) == dict.fromkeys(homes(server, built), "1.15.0")


def test_a_reference_that_the_cluster_can_not_read_is_said(session: Session, six15: Built, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"the cluster can't read .*set the connection's delivery to upload"):
        attach_payload(session, six15.archive, payload=never, uri=(tmp_path / "missing.payload").as_uri())


def test_an_archive_for_another_kind_of_machine_is_refused_and_no_more_is_sent_from_then_on(
    session: Session, six15: Built
) -> None:
    foreign = dataclasses.replace(six15.archive, sha256="0" * 64, payload="foreign.payload", platform="linux-riscv64")

    def fetched() -> Path:
        time.sleep(5)
        return six15.payload

    with pytest.raises(SessionError, match=r"was built for linux-riscv64, and the cluster is linux-\w+: build it on"):
        attach_payload(session, foreign, payload=fetched)
    assert not [row for row in session.spark.sql("LIST FILES").collect() if "foreign" in row[0]]


def test_detach_goes_back_to_the_clusters_python(session: Session, six15: Built) -> None:
    six15.attach(session)
    detach(session)
    assert set(six_on_executors(session)) == {Path(sys.prefix)}


def test_an_archive_without_interpreter_uses_the_one_on_the_executors_path(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    built = build("six==1.15.0", bundle_python=False)
    assert built.archive.interpreter is None
    (tmp_path / f"python{MINOR}").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with EmbeddedServer(environ=environ) as server, open_session(server) as session:
        built.attach(session)
        assert six_on_executors(session) == dict.fromkeys(homes(server, built), "1.15.0")


@needs_unshare
def test_an_archive_without_interpreter_says_that_the_executors_have_none(
    bare_server: EmbeddedServer, build: Callable[..., Built]
) -> None:
    built = build("six==1.15.0", bundle_python=False)
    with open_session(bare_server) as session:
        with pytest.raises(SessionError, match=rf"no python{MINOR} runs from .* build the environment with bundle"):
            built.attach(session)
        assert session.spark.conf.get(conf.PYTHON, None) is None
    # The other executor may still be at it.
    wait_for(lambda: not any(home.exists() or remains(home) for home in homes(bare_server, built)))


def test_a_payload_damaged_on_its_way_is_refused(
    session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    flip_a_bit(built.payload)
    with pytest.raises(SessionError, match=r"was damaged on its way to this executor .* run this again"):
        built.attach(session)
    # The other executor may still be at it.
    wait_for(lambda: not any(home.exists() or remains(home) for home in homes(server, built)))


def test_an_archive_of_another_python_is_refused_before_anything_is_sent(session: Session, six15: Built) -> None:
    other = dataclasses.replace(six15.archive, python="3.9.1")
    with pytest.raises(SessionError, match=rf'has Python 3\.9, this task runs Python {MINOR}.*python="{MINOR}"'):
        attach_payload(session, other, payload=never)
    assert session.spark.conf.get(conf.ATTACHED, None) is None
    assert session.spark.conf.get(conf.PYTHON, None) is None


def test_plain_udfs_run_without_pyarrow_and_use_it_again_where_it_is(
    session: Session, six15: Built, six16: Built
) -> None:
    spark = session.spark
    for name in conf.ARROW:
        spark.conf.set(name, "true")

    def run_plain_udf() -> tuple[int, str]:
        @udf("string")
        def six(_):  # type: ignore[no-untyped-def]
            import six

            return str(six.__version__)

        return six.evalType, spark.range(1).select(six("id")).first()[0]  # type: ignore[attr-defined,index]

    def run_plain_udtf() -> str:
        @udtf(returnType="version string")  # type: ignore[arg-type]
        class Six:
            def eval(self) -> Iterator[tuple[str]]:
                import six

                yield (six.__version__,)

        return str(Six().first()[0])

    for _ in range(2):
        six15.attach(session)
        assert run_plain_udf() == (PythonEvalType.SQL_BATCHED_UDF, "1.15.0")
    assert run_plain_udtf() == "1.15.0"
    six16.attach(session)
    assert run_plain_udf() == (PythonEvalType.SQL_ARROW_BATCHED_UDF, "1.16.0")
    assert run_plain_udtf() == "1.16.0"
    six15.attach(session)
    detach(session)
    assert [spark.conf.get(name) for name in conf.ARROW] == ["true", "true"]


def test_a_choice_against_arrow_outlives_an_environment_without_pyarrow(
    session: Session, six15: Built, six16: Built
) -> None:
    for name in conf.ARROW:
        session.spark.conf.set(name, "false")
    six15.attach(session)
    six16.attach(session)
    assert [session.spark.conf.get(name) for name in conf.ARROW] == ["false", "false"]


@pytest.fixture
def six16_session(session: Session, six16: Built) -> Session:
    six16.attach(session)
    return session


def test_pandas_udfs_run_in_the_environment(six16_session: Session, server: EmbeddedServer, six16: Built) -> None:
    @pandas_udf("string")
    def prefix(ids: pd.Series) -> pd.Series:
        return ids.astype(str).map(lambda _: sys.prefix)

    rows = six16_session.spark.range(2, numPartitions=2).select(prefix("id")).collect()
    assert {Path(row[0]) for row in rows} <= homes(server, six16)


def test_map_in_arrow_runs_in_the_environment(six16_session: Session, server: EmbeddedServer, six16: Built) -> None:
    def prefix(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow

        for _ in batches:
            yield pyarrow.RecordBatch.from_pydict({"prefix": [sys.prefix]})

    rows = six16_session.spark.range(2, numPartitions=2).mapInArrow(prefix, "prefix string").collect()
    assert {Path(row[0]) for row in rows} <= homes(server, six16)


def test_udtfs_run_in_the_environment_and_are_analyzed_by_the_servers_python(
    six16_session: Session, server: EmbeddedServer, six16: Built
) -> None:
    @udtf
    class Prefix:
        @staticmethod
        def analyze(_: Any) -> Any:
            from pyspark.sql.types import StructType
            from pyspark.sql.udtf import AnalyzeResult

            return AnalyzeResult(StructType().add(sys.prefix, "string"))

        def eval(self, _: int) -> Iterator[tuple[str]]:
            yield (sys.prefix,)

    table = Prefix(lit(1))
    assert table.columns == [sys.prefix]
    assert Path(table.collect()[0][0]) in homes(server, six16)


def test_python_data_sources_are_read_in_the_environment_and_planned_by_the_servers_python(
    six16_session: Session, server: EmbeddedServer, six16: Built
) -> None:
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            return [InputPartition(sys.prefix)]

        def read(self, partition: InputPartition) -> Iterator[tuple[str, str]]:
            yield partition.value, sys.prefix

    class Prefixes(DataSource):
        @classmethod
        def name(cls) -> str:
            return "prefixes"

        def schema(self) -> str:
            return "planned string, read string"

        def reader(self, schema: Any) -> Reader:
            return Reader()

    spark = six16_session.spark
    spark.dataSource.register(Prefixes)
    (row,) = spark.read.format("prefixes").load().collect()
    assert row.planned == sys.prefix
    assert Path(row.read) in homes(server, six16)


def test_py_files_are_imported_on_executors_and_leave_this_process_as_it_was(session: Session, tmp_path: Path) -> None:
    package = tmp_path / "rules_of_ours"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from rules_of_ours.deep import value")
    (package / "deep/__init__.py").write_text("value = 40")
    module = tmp_path / "helper_of_ours.py"
    module.write_text("two = 2")
    before = list(sys.path)
    add_py_files(session, [package, str(module)])
    assert sys.path == before

    @udf("int", useArrow=False)
    def answer(_: int) -> int:
        import helper_of_ours
        import rules_of_ours

        return int(rules_of_ours.value + helper_of_ours.two)

    assert [row[0] for row in session.spark.range(2, numPartitions=2).select(answer("id")).collect()] == [42, 42]


def test_py_files_that_could_not_be_imported_are_refused(session: Session, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "my-module.py").touch()
    (tmp_path / "my-package").mkdir()
    for name in ("notes.txt", "my-module.py", "my-package", "missing"):
        with pytest.raises(InvalidArgumentError, match=rf"{name}' is neither a .py file nor a directory of a package"):
            add_py_files(session, [tmp_path / name])
    twins = [tmp_path / "a" / "twin.py", tmp_path / "b" / "twin.py"]
    for twin in twins:
        twin.parent.mkdir()
        twin.touch()
    with pytest.raises(InvalidArgumentError, match=r"two of them hold twin\.py"):
        add_py_files(session, twins)
