"""What a cluster is sent of an archive, and how often, with real executors."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import ConnectError
from airflow_provider_sparkdeps.spark import rpc
from airflow_provider_sparkdeps.spark.attach import attach_payload
from airflow_provider_sparkdeps.spark.delivery import deliver as delivering
from airflow_provider_sparkdeps.spark.delivery.launcher import Start, launcher_archive
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.rpc import RpcClient
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.spark.session.sharing import close_shared

from ...support.executors import Built, homes, never, open_session, six_on_executors


@pytest.fixture(scope="module")
def six15(tmp_path_factory: pytest.TempPathFactory) -> Built:
    store = ArchiveStore(tmp_path_factory.mktemp("store"))
    archive = store.build(VenvEnvironment(["six==1.15.0"]), timeout=300)
    return Built(archive, store.fetch(archive))


@pytest.fixture
def built(six15: Built, tmp_path: Path) -> Built:
    """An archive that is new to all executors."""
    return six15.renewed(tmp_path)


def payloads(server: EmbeddedServer, built: Built) -> list[Path]:
    """The copies of the payload that Spark itself has brought to executors."""
    return list((server.work_dir / "spark/work").glob(f"app-*/*/*/{built.archive.payload}"))


def test_a_payload_is_sent_once_for_all_sessions_and_executors_fetch_it(server: EmbeddedServer, built: Built) -> None:
    with open_session(server) as first:
        assert built.attach(first)
    # There is no open session now.
    with open_session(server) as second:
        assert attach_payload(second, built.archive, payload=never)
        assert six_on_executors(second) == dict.fromkeys(homes(server, built), "1.15.0")
        files = [row[0] for row in second.spark.sql("LIST FILES").collect()]
        assert len([file for file in files if file.endswith(built.archive.payload)]) == 1
    assert payloads(server, built) == []


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedServer, Path]]:
    """A server of its own with one executor, and the directory that it knows as viewfs://team/store."""
    store = tmp_path_factory.mktemp("viewfs")
    conf = {"spark.hadoop.fs.viewfs.mounttable.team.link./store": store.as_uri()}
    with EmbeddedServer("local-cluster[1,1,1024]", conf=conf) as server:
        yield server, store


def test_a_store_that_only_spark_can_read_is_checked_once(
    small_server: tuple[EmbeddedServer, Path], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = small_server
    shutil.copy(built.payload, store / built.archive.payload)
    uri = f"viewfs://team/store/{built.archive.payload}"
    probes = []

    def record(*args: Any, probe: bool, start: Start) -> bytes:
        probes.append(probe)
        return launcher_archive(*args, probe=probe, start=start)

    monkeypatch.setattr(delivering, "launcher_archive", record)
    for _ in range(2):
        with open_session(server) as session:
            assert attach_payload(session, built.archive, payload=never, uri=uri)
            assert set(six_on_executors(session, executors=1).values()) == {"1.15.0"}
            assert payloads(server, built)
        monkeypatch.setattr(delivering, "_check_platform", never)
    assert set(probes) == {False}, "it would be fetched and checked whenever Python starts"


def test_an_executor_that_joins_later_fetches_the_payload(
    small_server: tuple[EmbeddedServer, Path], built: Built
) -> None:
    server, _ = small_server
    with open_session(server) as first:
        built.attach(first)
    with open_session(server) as second:
        attach_payload(second, built.archive, payload=never)
        assert len(six_on_executors(second, executors=1)) == 1
        (before,) = [home for home in homes(server, built) if home.exists()]
        os.kill(executor_of(second), signal.SIGKILL)
        found = six_on_executors(second, executors=1)
        assert found == {home: "1.15.0" for home in homes(server, built) if home != before}


def executor_of(session: Session) -> int:
    """The process id of the executor that runs a task."""

    @udf("int", useArrow=False)
    def grandparent(_: int) -> int:
        with open(f"/proc/{os.getppid()}/stat") as stat:  # noqa: PTH123
            return int(stat.read().rpartition(")")[2].split()[1])

    return int(session.spark.range(1).select(grandparent("id")).collect()[0][0])


@pytest.mark.soak
def test_spark_brings_the_payload_if_the_cluster_requires_authentication(built: Built) -> None:
    conf = {"spark.authenticate": "true", "spark.authenticate.secret": "only-for-this-test"}
    with EmbeddedServer("local-cluster[1,1,1024]", conf=conf) as server:
        for payload in (lambda: built.payload, never):
            with open_session(server) as session:
                assert attach_payload(session, built.archive, payload=payload)
                assert set(six_on_executors(session, executors=1).values()) == {"1.15.0"}
                assert payloads(server, built)


def test_of_two_concurrent_sessions_one_uploads(
    server: EmbeddedServer, built: Built, caplog: pytest.LogCaptureFixture
) -> None:
    barrier = threading.Barrier(2, timeout=60)

    def use(_: int) -> set[str]:
        with open_session(server) as session:
            barrier.wait()
            built.attach(session)
            return set(six_on_executors(session).values())

    with caplog.at_level("INFO"), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [{"1.15.0"}, {"1.15.0"}]
    assert caplog.text.count(f"Uploaded {built.archive.payload}") == 1


def test_an_upload_that_takes_too_long_fails_and_can_be_repeated(
    server: EmbeddedServer, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_session(server) as session:
        with monkeypatch.context() as patch:
            patch.setattr(rpc, "_UPLOAD_TIMEOUT", 0.0)
            patch.setattr(rpc, "_MIN_UPLOAD_SPEED", 1e9)
            with pytest.raises(ConnectError, match=r"Could not upload env-.* MB\) to .* within 0 s\. .*delivery"):
                built.attach(session)
        assert built.attach(session)
        assert set(six_on_executors(session).values()) == {"1.15.0"}


def test_a_payload_that_the_server_dropped_is_sent_again(server: EmbeddedServer, built: Built) -> None:
    with open_session(server) as first:
        built.attach(first)
        shared = first.share()
        (cache,) = shared.kept_alive
        assert RpcClient(first.endpoint, cache).release(timeout=10)
        assert close_shared(first.endpoint, shared)
    fetched = []

    def payload() -> Path:
        fetched.append(built.payload)
        return built.payload

    with open_session(server) as second:
        attach_payload(second, built.archive, payload=payload)
        assert fetched == [built.payload]
        assert set(six_on_executors(second).values()) == {"1.15.0"}


def test_workers_import_an_unpacked_and_compiled_pyspark(server: EmbeddedServer, six15: Built) -> None:
    with open_session(server) as session:

        @udf("string", useArrow=False)
        def origin(_: int) -> str:
            import pyspark

            return str(pyspark.__spec__.cached)

        six15.attach(session)
        rows = session.spark.range(2, numPartitions=2).select(origin("id")).collect()
    caches = {home.parent for home in homes(server, six15)}
    for compiled in (Path(row[0]) for row in rows):
        assert compiled.is_file()
        assert compiled.parents[3] in caches, compiled
