"""Attaching archives to sessions, on real executors."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyspark
import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import lit, pandas_udf, udf, udtf  # type: ignore[attr-defined]
from pyspark.util import PythonEvalType

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.attach import attach_payload, detach
from airflow_provider_sparkdeps.spark.delivery import deliver as delivering
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session

from ..support.executors import (
    Built,
    commands,
    flip_a_bit,
    homes,
    leftovers,
    needs_unshare,
    never,
    open_session,
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
    """Two executors without Python: that of the tests is hidden, PATH has none, and ~/.local contains a package."""
    is_systems = sys.base_prefix == "/usr"
    hidden = Path(f"/usr/lib/python{MINOR}" if is_systems else sys.base_prefix)
    if Path(pyspark.__file__).is_relative_to(hidden):
        pytest.skip(f"the server's jars are in {hidden}, which would be hidden; run the tests in a venv")
    hide = f"mount -t tmpfs none '{hidden}'"
    if is_systems:
        hide += f" && mount --bind /dev/null {os.path.realpath(sys.executable)}"
    directory = tmp_path_factory.mktemp("bare")
    user_site = directory / f".local/lib/python{MINOR}/site-packages"
    user_site.mkdir(parents=True)
    (user_site / "six.py").write_text("__version__ = 'in ~/.local of the executor'")
    environ = {**os.environ, "HOME": str(directory), "PATH": str(commands(directory / "bin", without=("python*",)))}
    prefix = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh"]
    with EmbeddedServer("local-cluster[2,2,1024]", command_prefix=prefix, environ=environ) as server:
        yield server


@needs_unshare
def test_executors_without_python_run_the_archives_own(bare_server: EmbeddedServer, six15: Built) -> None:
    with open_session(bare_server) as session:
        with pytest.raises(PySparkException):
            six_on_executors(session)
        assert six15.attach(session)
        assert six_on_executors(session) == dict.fromkeys(homes(bare_server, six15), "1.15.0")


@needs_unshare
def test_concurrent_sessions_unpack_an_archive_once(bare_server: EmbeddedServer, six15: Built, tmp_path: Path) -> None:
    built = six15.renewed(tmp_path)
    barrier = threading.Barrier(2, timeout=60)

    def use(_: int) -> dict[Path, str]:
        with open_session(bare_server) as session:
            assert built.attach(session)
            barrier.wait()
            return six_on_executors(session)

    expected = dict.fromkeys(homes(bare_server, built), "1.15.0")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [expected, expected]
    assert [leftovers(home) for home in expected] == [[], []]


def test_a_later_session_reuses_the_unpacked_archive(server: EmbeddedServer, six15: Built) -> None:
    def inodes() -> list[tuple[int, int]]:
        return [(home.stat().st_ino, home.stat().st_ctime_ns) for home in sorted(homes(server, six15))]

    with open_session(server) as first:
        six15.attach(first)
        six_on_executors(first)
        before = inodes()
    with open_session(server) as second:
        assert six15.attach(second)
        assert six_on_executors(second) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert inodes() == before


def test_a_session_switches_between_archives_and_sends_each_once(
    session: Session, server: EmbeddedServer, six15: Built, six16: Built
) -> None:
    assert six15.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert six16.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six16), "1.16.0")
    assert not attach_payload(session, six15.archive, payload=never)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")


def test_by_reference_the_cluster_reads_the_payload_and_the_client_sends_nothing(
    session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    named = built.payload.rename(tmp_path / built.archive.payload)
    assert attach_payload(session, built.archive, payload=never, uri=named.as_uri())
    assert six_on_executors(session) == dict.fromkeys(homes(server, built), "1.15.0")


def test_a_uri_that_the_cluster_can_not_read_is_reported(session: Session, six15: Built, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"The cluster could not read .*set delivery of the connection to upload"):
        attach_payload(session, six15.archive, payload=never, uri=(tmp_path / "missing.payload").as_uri())


def test_an_archive_for_another_platform_is_rejected_and_not_sent(
    session: Session, six15: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(six15.archive, sha256="0" * 64, payload="other.payload", platform="linux-riscv64")
    real_check, checked = delivering._check_platform, threading.Event()

    def check(*arguments: Any) -> None:
        try:
            real_check(*arguments)
        finally:
            checked.set()

    def payload() -> Path:
        assert checked.wait(60)
        return six15.payload

    monkeypatch.setattr(delivering, "_check_platform", check)

    with pytest.raises(SessionError, match=r"was built for linux-riscv64, but the cluster is linux-\w+\. Build it on"):
        attach_payload(session, other, payload=payload)
    assert not [row for row in session.spark.sql("LIST FILES").collect() if "other.payload" in row[0]]


def test_detach_restores_the_clusters_python(session: Session, six15: Built) -> None:
    six15.attach(session)
    detach(session)
    assert set(six_on_executors(session)) == {Path(sys.prefix)}


def test_an_archive_without_interpreter_uses_the_python_on_the_executors_path(
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
def test_executors_without_the_python_that_an_archive_needs_are_reported(
    bare_server: EmbeddedServer, build: Callable[..., Built]
) -> None:
    built = build("six==1.15.0", bundle_python=False)
    with open_session(bare_server) as session:
        with pytest.raises(
            SessionError, match=rf"no working python{MINOR} on PATH .* build the environment with bundle"
        ):
            built.attach(session)
        assert session.spark.conf.get(conf.PYTHON, None) is None
    # The other executor may still be running its attempt.
    wait_for(lambda: not any(home.exists() or leftovers(home) for home in homes(bare_server, built)))


def test_a_damaged_payload_is_rejected(session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path) -> None:
    built = six15.renewed(tmp_path)
    flip_a_bit(built.payload)
    with pytest.raises(SessionError, match=r"was damaged on its way to this executor: .* Run the task again"):
        built.attach(session)
    # The other executor may still be running its attempt.
    wait_for(lambda: not any(home.exists() or leftovers(home) for home in homes(server, built)))


def test_an_archive_for_another_python_is_rejected_before_anything_is_sent(session: Session, six15: Built) -> None:
    other = dataclasses.replace(six15.archive, python="3.9.1")
    with pytest.raises(SessionError, match=rf'has Python 3\.9, but this task runs Python {MINOR}.*python="{MINOR}"'):
        attach_payload(session, other, payload=never)
    assert session.spark.conf.get(conf.ATTACHED, None) is None
    assert session.spark.conf.get(conf.PYTHON, None) is None


def test_plain_udfs_use_arrow_only_in_environments_with_pyarrow(session: Session, six15: Built, six16: Built) -> None:
    spark = session.spark
    for name in conf.ARROW:
        spark.conf.set(name, "true")

    def run_plain_udf() -> tuple[int, str]:
        def six(_: int) -> str:
            import six

            return str(six.__version__)

        function: Any = udf(six, "string")
        return function.evalType, spark.range(1).select(function("id")).collect()[0][0]

    def run_plain_udtf() -> str:
        class Six:
            def eval(self) -> Iterator[tuple[str]]:
                import six

                yield (six.__version__,)

        table: Any = udtf(Six, returnType="version string")
        return str(table().collect()[0][0])

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


def test_arrow_settings_of_the_session_are_restored_after_an_environment_without_pyarrow(
    session: Session, six15: Built, six16: Built
) -> None:
    for name in conf.ARROW:
        session.spark.conf.set(name, "false")
    six15.attach(session)
    six16.attach(session)
    assert [session.spark.conf.get(name) for name in conf.ARROW] == ["false", "false"]


@pytest.mark.parametrize("restore", ["attach", "detach"])
def test_arrow_settings_that_were_not_set_are_unset_again(
    session: Session, six15: Built, six16: Built, restore: str
) -> None:
    def settings() -> dict[str, str]:
        return {name: value for name, value in session.spark.conf.getAll.items() if name in conf.ARROW}

    assert settings() == {}
    for _ in range(2):
        six15.attach(session)
        assert settings() == dict.fromkeys(conf.ARROW, "false")
        if restore == "attach":
            six16.attach(session)
        else:
            detach(session)
        assert settings() == {}


@pytest.fixture
def six16_session(session: Session, six16: Built) -> Session:
    six16.attach(session)
    return session


def test_pandas_udfs_run_in_the_environment(six16_session: Session, server: EmbeddedServer, six16: Built) -> None:
    @pandas_udf("string")  # type: ignore[untyped-decorator]
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


def test_udtfs_run_in_the_environment_and_the_servers_python_analyzes_them(
    six16_session: Session, server: EmbeddedServer, six16: Built
) -> None:
    class Prefix:
        @staticmethod
        def analyze(_: Any) -> Any:
            from pyspark.sql.types import StructType
            from pyspark.sql.udtf import AnalyzeResult

            return AnalyzeResult(StructType().add(sys.prefix, "string"))

        def eval(self, _: int) -> Iterator[tuple[str]]:
            yield (sys.prefix,)

    function: Any = udtf(Prefix)
    table = function(lit(1))
    assert table.columns == [sys.prefix]
    assert Path(table.collect()[0][0]) in homes(server, six16)


def test_data_sources_are_read_in_the_environment_and_the_servers_python_plans_them(
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
