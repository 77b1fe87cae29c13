"""Delivery by reference to real executors, which read from an HTTP server on loopback."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.attach import attach_payload
from airflow_provider_sparkdeps.spark.delivery.reference import add_file, explain_fetch_errors
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import Built, homes, never, six_on_executors
from ...support.object_store import SECRET, FakeObjectStore, Objects

pytestmark = pytest.mark.filterwarnings("ignore:UPath 'fakes3' filesystem")


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Objects]:
    with Objects(tmp_path) as objects:
        yield objects


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Archive]:
    root = tmp_path_factory.mktemp("store")
    return root, ArchiveStore(root).build(VenvEnvironment(["six==1.15.0"]), timeout=300)


def files_on_executors(session: Session) -> set[tuple[str, str]]:
    """The names and contents of the session's files that two tasks see."""

    @udf("string", useArrow=False)
    def read(_: int) -> str:
        import pathlib

        return "|".join(f"{path.name}:{path.read_text()}" for path in sorted(pathlib.Path.cwd().glob("*.payload")))

    rows = session.spark.range(2, numPartitions=2).select(read("id")).collect()
    parts = [part.partition(":") for row in rows for part in row[0].split("|") if part]
    return {(name, content) for name, _, content in parts}


def test_executors_fetch_an_environment_from_a_presigned_url_and_the_client_sends_nothing(
    session: Session, built: tuple[Path, Archive]
) -> None:
    root, archive = built
    with Objects(root) as objects:
        FakeObjectStore.objects = objects
        uri = ArchiveStore(f"fakes3://{root}").uri(archive)
        assert uri.startswith(objects.address)
        assert attach_payload(session, archive, payload=never, uri=uri)

        @udf("string", useArrow=False)
        def version(_: int) -> str:
            import six

            return str(six.__version__)

        rows = session.spark.range(2, numPartitions=2).select(version("id")).collect()
        assert {row[0] for row in rows} == {"1.15.0"}
        assert objects.served in (1, 2), "by each executor that was used"
        assert not attach_payload(session, archive, payload=never, uri=uri)


def test_special_characters_in_a_path_are_quoted(session: Session, objects: Objects) -> None:
    folder = '/it\'s ${spark.app.name}\\ 100% "é"'
    (objects.root / folder.lstrip("/")).mkdir()
    for number in (1, 2):
        (objects.root / folder.lstrip("/") / f"env-{number}.payload").write_text(f"content {number}")
    add_file(session.spark, objects.sign(f"{folder}/env-1.payload"))
    add_file(session.spark, (objects.root / folder.lstrip("/") / "env-2.payload").as_uri())
    assert files_on_executors(session) == {("env-1.payload", "content 1"), ("env-2.payload", "content 2")}


PRESIGNED = r"presigned URL was rejected \(HTTP 403\), because .* expired, .*\. Increase presigned_url_expiration"


@pytest.mark.parametrize(
    ("uri", "explanation"),
    [
        ("{http}/env-1.payload?Expires=1&Signature=5ec7e7f00d", PRESIGNED),
        ("{http}/env-1.payload", r"access is denied \(HTTP 403\)\. Give the cluster access"),
        ("{signed}", r"does not exist there\. Set archive_store_uri of the connection to the directory"),
        ("http://127.0.0.1:1/env-1.payload?s=5ec7e7f00d", r"connection was refused\. Set archive_store_uri"),
        (
            "http://no-such-host.invalid/env-1.payload?s=5ec7e7f00d",
            r"could not resolve the host name\. Set archive_store_uri",
        ),
        ("{https}/env-1.payload?s=5ec7e7f00d", r"TLS failed, .*\. Add the store's certificate authority"),
        ("s3://team/env-1.payload", r"has no file system for s3://\. Set .* \(e\.g\. s3a:// instead of s3://\)"),
        ("s3a://team/env-1.payload", r"has no file system for s3a://\. .* add the Hadoop connector"),
        ("file:///no/such/env-1.payload", "the file does not exist there"),
        ("file:///tmp", r"Don't support add file.*\. Give the cluster access"),
    ],
)
def test_why_the_cluster_could_not_read_a_uri_is_explained_without_the_signature(
    session: Session, objects: Objects, uri: str, explanation: str, caplog: pytest.LogCaptureFixture
) -> None:
    signed = objects.sign("/env-1.payload")
    uri = uri.format(http=objects.address, https=objects.address.replace("http", "https"), signed=signed)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(
            SessionError, match=f"The cluster could not read .*{explanation}.*, or set delivery .* to upload\\."
        ) as raised,
    ):
        add_file(session.spark, uri)
    assert uri.partition("?")[0] in str(raised.value)
    assert raised.value.__context__ is None, "Spark's own error contains the signature"
    assert SECRET not in str(raised.value) + caplog.text


def test_a_store_that_is_busy_is_reported_as_such(session: Session, objects: Objects) -> None:
    objects.statuses = {0: 503}
    with pytest.raises(SessionError, match=r"the store is busy \(HTTP 503\)\. Run the task again"):
        add_file(session.spark, objects.sign("/env-1.payload"))


def test_a_lost_session_is_not_reported_as_an_unreadable_store(endpoint: Endpoint, objects: Objects) -> None:
    with Session(endpoint) as session:
        session.rpc.release(timeout=5)
        with pytest.raises(PySparkException, match="INVALID_HANDLE"):
            add_file(session.spark, objects.sign("/env-1.payload"))


def test_a_url_that_has_expired_when_an_executor_joins_is_explained_without_the_signature(
    session: Session, objects: Objects
) -> None:
    (objects.root / "env-1.payload").write_text("content")
    uri = objects.sign("/env-1.payload")
    add_file(session.spark, uri)
    objects.statuses = {1: 403}
    with (
        pytest.raises(SessionError, match=f"An executor could not read .*/env-1.payload.*{PRESIGNED}") as failed,
        explain_fetch_errors(uri),
    ):
        files_on_executors(session)
    assert SECRET not in str(failed.value)
    assert failed.value.__suppress_context__


@pytest.fixture
def new_archive(built: tuple[Path, Archive], objects: Objects, tmp_path: Path) -> Built:
    """An archive that is new to all executors, served by `objects`."""
    root, archive = built
    renewed = Built(archive, root / archive.key / archive.payload).renewed(tmp_path)
    renewed.payload.rename(objects.root / renewed.archive.payload)
    return renewed


def test_a_new_signature_works_after_one_was_rejected(session: Session, objects: Objects, new_archive: Built) -> None:
    path = f"/{new_archive.archive.payload}"
    with pytest.raises(SessionError, match=PRESIGNED):
        attach_payload(session, new_archive.archive, payload=never, uri=f"{objects.address}{path}?Signature=expired")
    assert attach_payload(session, new_archive.archive, payload=never, uri=objects.sign(path))
    assert set(six_on_executors(session).values()) == {"1.15.0"}


def test_an_executor_that_can_no_longer_fetch_the_payload_is_explained(
    server: EmbeddedServer, endpoint: Endpoint, objects: Objects, new_archive: Built
) -> None:
    uri = objects.sign(f"/{new_archive.archive.payload}")
    with Session(endpoint) as first:
        attach_payload(first, new_archive.archive, payload=never, uri=uri)
    # As on an executor that joins now.
    for home in homes(server, new_archive):
        shutil.rmtree(home)
    objects.statuses = {0: 403}
    with Session(endpoint) as second:
        attach_payload(second, new_archive.archive, payload=never, uri=uri)
        with (
            pytest.raises(SessionError, match=f"An executor could not read .*{PRESIGNED}") as failed,
            explain_fetch_errors(uri),
        ):
            six_on_executors(second)
    assert SECRET not in str(failed.value)


def test_other_errors_of_queries_are_passed_on(session: Session) -> None:
    @udf("string", useArrow=False)
    def fail(_: int) -> str:
        raise ConnectionRefusedError("Connection refused in a UDF")

    with (
        pytest.raises(PySparkException, match="Connection refused in a UDF"),
        explain_fetch_errors("http://h/env-1.payload"),
    ):
        session.spark.range(1).select(fail("id")).collect()
