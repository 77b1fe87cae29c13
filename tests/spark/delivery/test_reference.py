"""Delivery by reference, on real executors: an HTTP server of our own on loopback is what the cluster reads from."""

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


def files_on_executors(session: Session) -> list[tuple[str, str]]:
    """What each of two tasks sees of the files that the session was given: name and content."""

    @udf("string", useArrow=False)
    def look(_: int) -> str:
        import pathlib

        return "|".join(f"{path.name}:{path.read_text()}" for path in sorted(pathlib.Path.cwd().glob("*.payload")))

    rows = session.spark.range(2, numPartitions=2).select(look("id")).collect()
    return sorted({tuple(part.split(":", 1)) for row in rows for part in row[0].split("|") if part})  # type: ignore[misc]


def test_a_presigned_url_delivers_an_environment_and_no_byte_of_it_passes_through_us(
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
        assert objects.served in (1, 2), "each executor that was used"
        assert not attach_payload(session, archive, payload=never, uri=uri)


def test_odd_names_arrive_whole_and_end_no_statement(session: Session, objects: Objects) -> None:
    folder = '/it\'s ${spark.app.name}\\ 100% "é"'
    (objects.root / folder.lstrip("/")).mkdir()
    for number in (1, 2):
        (objects.root / folder.lstrip("/") / f"env-{number}.payload").write_text(f"content {number}")
    add_file(session.spark, objects.sign(f"{folder}/env-1.payload"))
    add_file(session.spark, (objects.root / folder.lstrip("/") / "env-2.payload").as_uri())
    assert files_on_executors(session) == [("env-1.payload", "content 1"), ("env-2.payload", "content 2")]


PRESIGNED = r"presigned URL is refused \(HTTP 403\): it has expired, .* raise the connection's presigned_url_expiration"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("{http}/env-1.payload?Expires=1&Signature=5ec7e7f00d", PRESIGNED),
        ("{http}/env-1.payload", r"access is forbidden \(HTTP 403\): give the cluster access"),
        ("{signed}", "nothing is there: let the connection's archive_store_uri lead to the same directory"),
        ("http://127.0.0.1:1/env-1.payload?s=5ec7e7f00d", "connection is refused there: name in .* archive_store_uri"),
        ("http://no-such-host.invalid/env-1.payload?s=5ec7e7f00d", "can't resolve the host's name: name in .*"),
        ("{https}/env-1.payload?s=5ec7e7f00d", "TLS fails, .*: give that Java the store's authority"),
        ("s3://team/env-1.payload", r"has no file system for s3://: write the address .* \(such as s3a:// for s3://\)"),
        ("s3a://team/env-1.payload", "has no file system for s3a://: .* or add the Hadoop connector"),
        ("file:///no/such/env-1.payload", "nothing is there"),
        ("file:///tmp", r"Don't support add file.*: give it access to the archive store"),
    ],
)
def test_why_the_cluster_can_not_read_it_is_said_without_the_signature(
    session: Session, objects: Objects, uri: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    signed = objects.sign("/env-1.payload")
    uri = uri.format(http=objects.address, https=objects.address.replace("http", "https"), signed=signed)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(
            SessionError, match=f"the cluster can't read .*{said}.*, or set the connection's delivery to upload"
        ) as refused,
    ):
        add_file(session.spark, uri)
    assert uri.partition("?")[0] in str(refused.value)
    assert refused.value.__context__ is None, "Spark's own error shows the address"
    assert SECRET not in str(refused.value) + caplog.text


def test_a_store_that_is_busy_is_not_called_forbidden(session: Session, objects: Objects) -> None:
    objects.answers = {0: 503}
    with pytest.raises(SessionError, match=r"can't answer now \(HTTP 503\): run the task again"):
        add_file(session.spark, objects.sign("/env-1.payload"))


def test_a_lost_session_is_not_taken_for_a_store_that_can_not_be_read(endpoint: Endpoint, objects: Objects) -> None:
    with Session(endpoint) as session:
        session._control.release(timeout=5)  # type: ignore[union-attr]
        with pytest.raises(PySparkException, match="INVALID_HANDLE"):
            add_file(session.spark, objects.sign("/env-1.payload"))


def test_an_url_that_expired_before_an_executor_joined_is_said_without_the_signature(
    session: Session, objects: Objects
) -> None:
    (objects.root / "env-1.payload").write_text("content")
    uri = objects.sign("/env-1.payload")
    add_file(session.spark, uri)
    objects.answers = {1: 403}
    with (
        pytest.raises(SessionError, match=f"an executor can't read .*/env-1.payload.*{PRESIGNED}") as failed,
        explain_fetch_errors(uri),
    ):
        files_on_executors(session)
    assert SECRET not in str(failed.value)
    assert failed.value.__suppress_context__


@pytest.fixture
def unseen(built: tuple[Path, Archive], objects: Objects, tmp_path: Path) -> Built:
    """An archive that no executor has seen, for `objects` to show."""
    root, archive = built
    renewed = Built(archive, root / archive.key / archive.payload).renewed(tmp_path)
    renewed.payload.rename(objects.root / renewed.archive.payload)
    return renewed


def test_an_address_that_was_refused_is_signed_anew_and_taken(
    session: Session, objects: Objects, unseen: Built
) -> None:
    path = f"/{unseen.archive.payload}"
    with pytest.raises(SessionError, match=PRESIGNED):
        attach_payload(session, unseen.archive, payload=never, uri=f"{objects.address}{path}?Signature=expired")
    assert attach_payload(session, unseen.archive, payload=never, uri=objects.sign(path))
    assert set(six_on_executors(session).values()) == {"1.15.0"}


def test_an_executor_that_can_not_get_the_payload_any_more_is_told_in_a_sentence(
    server: EmbeddedServer, endpoint: Endpoint, objects: Objects, unseen: Built
) -> None:
    uri = objects.sign(f"/{unseen.archive.payload}")
    with Session(endpoint) as first:
        attach_payload(first, unseen.archive, payload=never, uri=uri)
    # As on an executor that has just joined.
    for home in homes(server, unseen):
        shutil.rmtree(home)
    objects.answers = {0: 403}
    with Session(endpoint) as second:
        attach_payload(second, unseen.archive, payload=never, uri=uri)
        with (
            pytest.raises(SessionError, match=f"an executor can't read .*{PRESIGNED}") as failed,
            explain_fetch_errors(uri),
        ):
            six_on_executors(second)
    assert SECRET not in str(failed.value)


def test_other_failures_of_queries_stay_as_they_are(session: Session) -> None:
    @udf("string", useArrow=False)
    def fail(_: int) -> str:
        raise ConnectionRefusedError("Connection refused, says the user's code")

    with pytest.raises(PySparkException, match="says the user's code"), explain_fetch_errors("http://h/env-1.payload"):
        session.spark.range(1).select(fail("id")).collect()
