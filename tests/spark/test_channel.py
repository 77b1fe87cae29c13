"""Channels to a real server: TLS, tokens, headers, proxies; cut, abandoned and exhausted streams."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from pyspark.errors import PySparkException
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import check_server
from airflow_provider_sparkdeps.spark.session import Session

from ..support.relays import Authority, Certificate, Recorder, Relay


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue("server", hosts=("localhost", "127.0.0.1"))


@pytest.fixture
def relay(server: EmbeddedServer) -> Iterator[Relay]:
    with Relay(server.port) as relay:
        yield relay


def slowly(seconds: float):
    """A UDF that takes so long for each row, and gives it back."""

    @udf("long")
    def slow(value):
        time.sleep(seconds)
        return value

    return slow


@pytest.mark.parametrize("given", ["path", "text"])
def test_a_private_authority_is_trusted_once_it_is_given(server, authority, certificate, given: str) -> None:
    ca = str(authority.path) if given == "path" else authority.certificate
    with (
        Relay(server.port, tls=authority.server_tls(certificate)) as relay,
        Session(Endpoint(host="localhost", port=relay.port, tls=True, ca_certificate=ca)) as session,
    ):
        assert session.spark.range(5).count() == 5


@pytest.mark.parametrize("given", ["path", "text"])
def test_a_client_certificate_opens_what_asks_for_one(server, authority, certificate, given: str) -> None:
    client = authority.issue("client")
    endpoint = {
        "path": {"client_certificate": str(client.path), "client_key": str(client.key_path)},
        "text": {"client_certificate": client.certificate, "client_key": client.key},
    }
    with Relay(server.port, tls=authority.server_tls(certificate, wants_client=True)) as relay:
        there = {"host": "localhost", "port": relay.port, "tls": True, "ca_certificate": str(authority.path)}
        assert check_server(Endpoint(**there, **endpoint[given])).startswith("4.")


def test_certificates_and_keys_that_can_not_work_are_named_before_a_call(authority, tmp_path: Path) -> None:
    client, other = authority.issue("client"), authority.issue("other")
    expired = authority.issue("expired", since=-3, until=-2)
    garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    locked = serialization.load_pem_private_key(client.key.encode(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    bare_key = "".join(client.key.splitlines()[1:-1])
    faulty = [
        (
            {"client_certificate": client.certificate, "client_key": other.key},
            "client_key does not match client_certificate",
        ),
        ({"client_certificate": garbled, "client_key": client.key}, "client_certificate is not a readable certificate"),
        ({"client_certificate": client.key, "client_key": client.certificate}, "client_certificate is not a readable"),
        ({"client_certificate": client.certificate, "client_key": garbled}, "client_key is not a readable private key"),
        (
            {"client_certificate": client.certificate, "client_key": locked.decode()},
            "client_key is encrypted with a passphrase",
        ),
        ({"client_certificate": expired.certificate, "client_key": expired.key}, "client_certificate expired"),
        ({"client_certificate": client.certificate, "client_key": bare_key}, "client_key: Could not read the file"),
        ({"client_certificate": client.certificate, "client_key": "a\0b"}, "client_key: Could not read the file"),
        ({"ca_certificate": garbled}, "ca_certificate is not a readable certificate"),
        ({"ca_certificate": client.key}, "ca_certificate is not a readable certificate"),
    ]
    for fields, fault in faulty:
        with pytest.raises(InvalidArgumentError, match=fault) as refused:
            check_server(Endpoint(host="localhost", port=1, tls=True, **fields))
        assert bare_key[:20] not in str(refused.value)


def test_a_token_travels_over_tls_and_shows_nowhere(
    token_server, tokens, authority, certificate, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("SparkConnectClient", "grpc", "pyspark"):
        caplog.set_level(logging.DEBUG, name)
    host, port, _ = token_server
    with Relay(port, tls=authority.server_tls(certificate)) as relay:
        there = {"host": host, "port": relay.port, "tls": True, "ca_certificate": authority.certificate}
        right, wrong = (Endpoint(**there, token=each) for each in tokens)
        with Session(right) as session:
            assert session.spark.range(5).count() == 5
            with pytest.raises(PySparkException) as failed:
                session.spark.sql("SELECT no_such_function()").collect()
            seen = [repr(shown) for shown in (right, wrong, session, session.spark, failed.value)]
        with pytest.raises(ConnectError, match="rejected the bearer token") as refused:
            check_server(wrong)
    seen += [str(failed.value), str(refused.value), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if any(each in text for each in tokens)]


@pytest.mark.parametrize("from_environment", [False, True])
def test_headers_and_the_user_go_with_every_kind_of_call(
    server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    monkeypatch.delenv("SPARK_USER", raising=False)
    monkeypatch.setenv("USER", "ada" if from_environment else "grace")
    # These names are also those of PySpark's own parameters.
    headers = {"x-team": "orders", "session_id": "s-1", "user_id": "u-1", "token": "t-1", "user_agent": "a-1"}
    (tmp_path / "artifact.txt").write_text("content")
    with Recorder(server.port) as recorder:
        endpoint = Endpoint(
            host="127.0.0.1",
            port=recorder.port,
            headers=headers,
            user_id=None if from_environment else "ada",
            session_conf={"spark.sql.shuffle.partitions": "2"},
        )
        with Session(endpoint) as session:
            assert session.spark.range(5).count() == 5
            session.spark.addArtifact(str(tmp_path / "artifact.txt"), file=True)
            with pytest.raises(PySparkException):
                session.spark.sql("SELECT no_such_function()").collect()
            session.interrupt()
        calls = list(recorder.calls)
    kinds = {"AnalyzePlan", "Config", "ExecutePlan", "ReleaseExecute", "AddArtifacts", "Interrupt", "ReleaseSession"}
    assert kinds <= {call.method for call in calls}
    assert [call.method for call in calls if not headers.items() <= call.headers.items()] == []
    assert [call.method for call in calls if call.request.user_context.user_id != "ada"] == []
    assert {call.request.session_id for call in calls} == {session.id}


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"headers": {"x-key": "grüße-secret"}}, "value of header 'x-key'"),
        ({"headers": {"x-key": "secret\n"}}, "value of header 'x-key'"),
        ({"headers": {"x-key": 5}}, "value of header 'x-key'"),
        ({"headers": {"content-type": "secret"}}, "Header name 'content-type'"),
        ({"headers": {"te": "secret"}}, "Header name 'te'"),
        ({"token": "secret\n"}, "bearer token"),
        ({"token": "grüße-secret"}, "bearer token"),
        ({"host": "spark:15002"}, "without port"),
        ({"host": "[::1]"}, "without port and brackets"),
    ],
)
def test_what_grpc_could_not_send_is_refused_at_once(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidArgumentError, match=fault) as refused:
        Endpoint(**{"host": "spark", "tls": True, **fields})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("token", [None, "a-token"])
def test_ipv6_works(server, token: str | None) -> None:
    try:
        relay = Relay(server.port, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with relay, Session(Endpoint(host="::1", port=relay.port, token=token)) as session:
        assert session.spark.range(5).count() == 5


def test_addresses_of_this_machine_are_known() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.0.1.1", "::1"):
        assert Endpoint(host=host).is_loopback
    for host in ("spark", "localhost.example.org", "10.0.0.1", "2001:db8::1"):
        assert not Endpoint(host=host).is_loopback


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_proxy_is_not_asked_for_this_machine(
    server, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert check_server(Endpoint(host=host, port=server.port, request_timeout=5)).startswith("4.")


def test_a_query_goes_on_when_its_connections_are_cut_and_counts_exactly(relay: Relay, tmp_path: Path) -> None:
    with Session(Endpoint(host="127.0.0.1", port=relay.port, request_timeout=20)) as session:
        count = session.accumulator("count")
        marks = str(tmp_path)

        @udf("long")
        def counted(value):
            if value % 250 == 0:
                Path(marks, f"{value}-{time.time_ns()}").touch()
            count.add(1)
            time.sleep(0.006)
            return value

        cuts: list[int] = []
        done = threading.Event()

        def cut() -> None:
            while not done.wait(0.7):
                cuts.append(relay.cut())

        cutting = threading.Thread(target=cut)
        cutting.start()
        try:
            found = session.spark.range(0, 1000, 1, 4).select(counted("id").alias("n")).collect()
        finally:
            done.set()
            cutting.join()
        assert sum(cuts) >= 2
        assert [row.n for row in found] == list(range(1000))
        # Each partition was computed once: the query was taken up again, not sent again.
        assert len(list(tmp_path.iterdir())) == 4
        assert count.value == 1000
        assert session.spark.range(5).count() == 5


@pytest.mark.parametrize("how", ["dropped", "refused"])
def test_a_stream_that_is_not_read_to_its_end_frees_the_cluster(
    session: Session, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    count = session.accumulator("count")
    slow = slowly(1)

    @udf("long")
    def counted(value):
        count.add(1)
        return value

    # 20 seconds for two executors of one core each, unless it is stopped.
    rows = session.spark.range(0, 40, 1, 40).select(slow(counted("id")).alias("n")).toLocalIterator()
    assert next(rows).n == 0
    if how == "refused":

        def refuse(operation_id: str, response: object) -> None:
            raise SessionError("refused by the test")

        with monkeypatch.context() as patch:
            patch.setattr(session._collector, "on_response", refuse)
            with pytest.raises(SessionError, match="refused by the test"):
                list(rows)
    started = time.monotonic()
    del rows
    assert session.spark.range(0, 10, 1, 2).count() == 10
    assert time.monotonic() - started < 8
    assert count.value == 0


def test_a_stream_that_fails_in_the_middle_says_why_and_counts_nothing(session: Session) -> None:
    count = session.accumulator("count")

    @udf("long")
    def failing(value):
        count.add(1)
        if value == 90:
            raise ValueError("row 90")
        return value

    rows = session.spark.range(0, 100, 1, 10).select(failing("id").alias("n")).toLocalIterator()
    with pytest.raises(PySparkException, match="row 90"):
        list(rows)
    assert count.value == 0


def test_an_action_whose_server_is_killed_fails_within_the_timeout(caplog: pytest.LogCaptureFixture) -> None:
    with (
        EmbeddedServer("local[1]") as server,
        Session(Endpoint(host=server.host, port=server.port, request_timeout=3)) as session,
    ):
        killed: list[float] = []

        def kill() -> None:
            os.kill(server.pid, signal.SIGKILL)
            killed.append(time.monotonic())

        threading.Timer(2, kill).start()
        with pytest.raises(PySparkException, match="Connection refused"):
            session.spark.range(1).select(slowly(60)("id")).collect()
        assert 2.5 < time.monotonic() - killed[0] < 5
        closing = time.monotonic()
    assert "retrying for 3 s" in caplog.text
    assert "no server is listening there" in caplog.text
    assert time.monotonic() - closing < 5


def test_an_action_whose_server_falls_silent_on_new_connections_fails_soon(relay: Relay) -> None:
    with Session(Endpoint(host="127.0.0.1", port=relay.port, request_timeout=4)) as session:
        assert session.spark.range(5).count() == 5
        threading.Timer(1, lambda: relay.cut(mute=True)).start()
        started = time.monotonic()
        with pytest.raises(PySparkException):
            session.spark.range(1).select(slowly(5)("id")).collect()
        # Half of the timeout is what one more attempt to connect may take.
        assert time.monotonic() - started < 1 + 4 * 1.5 + 1


def test_a_server_that_comes_late_is_waited_for(server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    relays: list[Relay] = []
    timer = threading.Timer(2, lambda: relays.append(Relay(server.port, own_port=port).__enter__()))
    timer.start()
    try:
        with Session(Endpoint(host="127.0.0.1", port=port, request_timeout=30)) as session:
            assert session.spark.range(5).count() == 5
    finally:
        timer.join()
        for relay in relays:
            relay.__exit__(None, None, None)
