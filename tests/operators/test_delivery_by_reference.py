"""Delivery by reference, from the connection's fields to the error in the task's log, on real executors."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.log import redact
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.archives.manifest import Contents
from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.operators.spark_connect import SparkConnectPythonOperator
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from ..support.object_store import SECRET, TOKEN, FakeObjectStore, Objects

pytestmark = pytest.mark.filterwarnings("ignore:UPath 'fakes3' filesystem")


@pytest.fixture
def payload(tmp_path: Path) -> bytes:
    """An environment as small as can be, new to the cluster: its interpreter starts the one of these tests."""
    script = f'#!/bin/sh\n# {tmp_path}\nexec "{sys.executable}" "$@"\n'.encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("bin/python")
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script))
    return packed.getvalue()


@pytest.fixture
def archive(payload: bytes) -> Archive:
    sha256 = hashlib.sha256(payload).hexdigest()
    return Archive(
        key="a" * 64,
        kind="venv",
        payload=f"env-{sha256[:12]}.payload",
        size=len(payload),
        sha256=sha256,
        interpreter="bin/python",
        python=platform.python_version(),
        platform=f"linux-{platform.machine()}",
        packages={},
        lock=(),
        environment={"kind": "venv"},
        contents=Contents(),
        created_at="2026-11-20T00:00:00+00:00",
        created_by="host:1",
    )


@pytest.fixture
def objects(tmp_path: Path, archive: Archive, payload: bytes) -> Iterator[Objects]:
    folder = tmp_path / archive.key
    folder.mkdir()
    (folder / archive.payload).write_bytes(payload)
    (folder / "manifest.json").write_text(json.dumps(archive.to_dict()))
    with Objects(tmp_path) as objects:
        FakeObjectStore.objects = objects
        yield objects


@pytest.fixture
def run(
    server: EmbeddedServer, archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Any]:
    """Run an operator by the connection that has these extras, with its archives in `store`."""

    def run(function: Callable[..., Any], store: str, **extra: Any) -> Any:
        connection = {"conn_type": "sparkdeps", "host": server.host, "port": server.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SPARK", json.dumps(connection))
        operator = SparkConnectPythonOperator(
            task_id="task",
            python_callable=function,
            environment=archive.to_dict(),
            spark_conn_id="spark",
            archive_store=store,
        )
        bundle = SimpleNamespace(path=str(tmp_path / "dags"))
        ti: Any = SimpleNamespace(dag_id="dag", task_id="task", run_id="run", bundle_instance=bundle)
        return operator.execute({"ti": ti})

    return run


def use_executors(spark: Any) -> int:
    return len(spark.range(1).select(udf(lambda _: 1, "int", useArrow=False)("id")).collect())


def test_the_cluster_reads_a_store_that_signs_by_presigned_urls(
    run: Callable[..., Any], objects: Objects, archive: Archive, tmp_path: Path
) -> None:
    run(use_executors, f"fakes3://{tmp_path}", delivery="reference", presigned_url_expiration=600)
    signed = objects.sign(f"/{archive.key}/{archive.payload}", expiration=600)
    assert {objects.address + asked for asked in objects.requests} == {signed}
    assert SECRET in signed
    assert SECRET not in redact(f"403 for URL: {signed}"), "logs show the signature"


def test_the_cluster_reads_the_store_where_the_connection_says(
    run: Callable[..., Any], objects: Objects, archive: Archive, tmp_path: Path
) -> None:
    run(use_executors, str(tmp_path), delivery="reference", archive_store_uri=f"{objects.address}?{TOKEN}")
    assert set(objects.requests) == {f"/{archive.key}/{archive.payload}?{TOKEN}"}
    assert SECRET not in redact(f"403 for URL: {objects.address}?{TOKEN}"), "logs show the token"


def test_a_task_whose_cluster_can_not_read_the_store_says_so(
    run: Callable[..., Any], objects: Objects, tmp_path: Path
) -> None:
    objects.statuses = {0: 403}
    with pytest.raises(
        SessionError, match=r"The cluster could not read .*\. Increase presigned_url_expiration"
    ) as said:
        run(use_executors, f"fakes3://{tmp_path}", delivery="reference")
    assert SECRET not in str(said.value)
