"""Sessions that several processes use: joined by id, reported when they are lost, closed only by their owner."""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf
from pyspark.sql.types import StringType

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import SessionError, SessionLostError
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session, SharedSession
from airflow_provider_sparkdeps.spark.session.sharing import close_shared

from ...support.relays import Recorder, Relay
from ...support.waiting import wait_until


@pytest.fixture
def shared(endpoint: Endpoint) -> Iterator[SharedSession]:
    """A shared session whose opener has ended."""
    with Session(endpoint) as opener:
        opener.spark.range(3).createTempView("left_here")
        shared = opener.share()
    yield shared
    close_shared(endpoint, shared)


def test_a_shared_session_stays_open_until_its_owner_closes_it(endpoint: Endpoint, shared: SharedSession) -> None:
    through_xcom = SharedSession.from_dict(json.loads(json.dumps(shared.to_dict())))
    for _ in range(2):
        with Session(endpoint, shared=through_xcom) as joined:
            assert joined.spark.table("left_here").count() == 3
    assert close_shared(endpoint, shared)
    assert not close_shared(endpoint, shared)


def test_joining_a_session_that_was_closed_or_has_expired_is_reported(
    endpoint: Endpoint, shared: SharedSession
) -> None:
    joined = Session(endpoint, shared=shared)
    with pytest.raises(SessionLostError, match=r"was closed or has expired.*defaultSessionTimeout") as lost, joined:
        close_shared(endpoint, shared) and joined.spark.range(3).count()
    assert isinstance(lost.value.__cause__, PySparkException)
    with pytest.raises(SessionLostError, match="was closed or has expired"), Session(endpoint, shared=shared):
        pass


def test_a_session_that_was_lost_with_its_server_is_reported_and_not_created_again(
    endpoint: Endpoint, shared: SharedSession
) -> None:
    # A restarted server knows neither the session's id nor its own id of the session.
    elsewhere = dataclasses.replace(shared, id=str(uuid.uuid4()))
    for _ in range(2):
        with (
            pytest.raises(SessionLostError, match=r"server at .* was restarted"),
            Session(endpoint, shared=elsewhere),
        ):
            pass
    with Session(endpoint) as session:
        assert not session.rpc.is_alive(elsewhere.id)
    renewed = dataclasses.replace(shared, server_side_id=str(uuid.uuid4()))
    with pytest.raises(SessionLostError, match=r"server at .* was restarted"), Session(endpoint, shared=renewed):
        pass
    assert not close_shared(endpoint, renewed)


def test_a_server_that_restarts_under_a_joined_session_creates_no_new_one_with_its_id(server: EmbeddedServer) -> None:
    with EmbeddedServer("local[1]") as first, ExitStack() as stack:
        relay = stack.enter_context(Relay(first.port))
        endpoint = Endpoint(host="127.0.0.1", port=relay.port)
        with Session(endpoint) as opener:
            shared = opener.share()
        joined = Session(endpoint, shared=shared)
        with pytest.raises(SessionLostError, match=r"server at .* was restarted"), joined:  # noqa: PT012 - all of it is the loss
            # Another server answers at the address of the first one, like one that was restarted.
            stack.close()
            relay = stack.enter_context(Relay(server.port, own_port=relay.port))
            joined.spark.range(3).count()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": "elsewhere:15002"}, "was opened on elsewhere:15002, but this connection is for"),
        ({"user_id": "somebody"}, "was opened by the Spark user 'somebody'"),
        ({"python": "3.1"}, "has Python 3.1, but this task runs Python"),
        (
            {"interpreter": "env-a/bin/python"},
            r"was changed by a task that joined it \(none instead of env-a/bin/python\)",
        ),
    ],
)
def test_a_session_that_does_not_match_is_not_joined(
    endpoint: Endpoint, shared: SharedSession, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(SessionError, match=message), Session(endpoint, shared=dataclasses.replace(shared, **changed)):
        pass


def test_data_that_does_not_describe_a_shared_session_is_rejected() -> None:
    for given in ({"id": "abc"}, "abc", None):
        with pytest.raises(SessionError, match="does not describe a shared session"):
            SharedSession.from_dict(given)


def test_a_joined_session_has_no_accumulators(endpoint: Endpoint, shared: SharedSession) -> None:
    with (
        Session(endpoint, shared=shared) as joined,
        pytest.raises(SessionError, match="not supported in shared sessions"),
    ):
        joined.accumulator("rows")


@pytest.mark.parametrize("how", ["interrupted", "closed"])
def test_tasks_that_share_a_session_do_not_interrupt_each_other(
    endpoint: Endpoint, shared: SharedSession, tmp_path: Path, how: str
) -> None:
    def slow(name: str) -> Any:
        @udf("long")
        def slow(value: int) -> int:
            (tmp_path / name).touch()
            deadline = time.monotonic() + 120
            while not (tmp_path / "go").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
            return value

        return slow

    def run(session: Session, name: str) -> int:
        return len(session.spark.range(1).select(slow(name)("id")).collect())

    with (
        Session(endpoint, tag="same", shared=shared) as mine,
        Session(endpoint, tag="same", shared=shared) as others,
        ThreadPoolExecutor(2) as pool,
    ):
        results = [pool.submit(run, mine, "mine"), pool.submit(run, others, "others")]
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        mine.interrupt() if how == "interrupted" else mine.close()
        assert results[0].exception(timeout=60)
        (tmp_path / "go").touch()
        assert results[1].result(timeout=60) == 1


def test_a_joined_session_has_the_environment_and_is_sent_no_file(server: EmbeddedServer, tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path)
    archive = store.build(VenvEnvironment(["six==1.15.0"]), timeout=300)

    def version(_: int) -> str:
        import six

        return str(six.__version__)

    with Recorder(server.port) as recorder:
        endpoint = Endpoint(host="127.0.0.1", port=recorder.port)
        with Session(endpoint) as opener:
            attach(opener, archive, store)
            shared = opener.share(archive)
        opened = len(recorder.calls)
        with Session(endpoint, shared=shared) as joined:
            joining = recorder.calls[opened:]
            found = joined.spark.range(1).select(udf(version, StringType(), useArrow=False)("id")).collect()
        close_shared(endpoint, shared)
    assert found[0][0] == "1.15.0"
    # Whether the session exists, which interpreter it runs, and a call to keep its cache alive.
    assert [call.method for call in joining] == ["ReleaseExecute", "Config", "ReleaseExecute"]
    # With it, a server that was restarted in the meantime rejects the call.
    assert joining[1].request.client_observed_server_side_session_id == shared.server_side_id
    for call in recorder.calls[opened:]:
        assert call.method != "AddArtifacts"
        assert b"ADD FILE" not in call.request.SerializeToString()
