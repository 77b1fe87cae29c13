"""Channels to a real server: TLS, tokens, headers and proxies; streams that are cut, abandoned or exhausted."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from pyspark.errors import PySparkException
from pyspark.sql.connect.client import DefaultChannelBuilder
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import check_server
from airflow_provider_sparkdeps.spark.session import Session

from ..support.relays import Authority, Certificate, Recorder, Relay
from ..support.waiting import ends_within, when_exists


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.issue("server", hosts=("localhost", "127.0.0.1"))


@pytest.fixture
def relay(server: EmbeddedServer) -> Iterator[Relay]:
    with Relay(server.port) as relay:
        yield relay


def slowly(seconds: float, started: Path | None = None) -> Any:
    """A UDF that returns each row after some seconds.

    :param started: a file that it creates before.
    """

    @udf("long")
    def slow(value: int) -> int:
        if started:
            started.touch()
        time.sleep(seconds)
        return value

    return slow


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("sc://spark.example.org", Endpoint(host="spark.example.org")),
        ("sc://[::1]:15003", Endpoint(host="::1", port=15003)),
        ("sc://localhost/;token=abc", Endpoint(host="localhost", token="abc")),
        ("sc://spark.example.org/;use_ssl=true", Endpoint(host="spark.example.org", tls=True)),
    ],
)
def test_the_channel_builder_has_the_properties_of_pysparks_own(url: str, endpoint: Endpoint) -> None:
    def properties(builder: Any) -> list[Any]:
        return [builder.endpoint, builder.host, builder.secure, builder.use_ssl]

    ours = EndpointChannelBuilder(endpoint, session_id="1", user_agent="tests")
    assert properties(ours) == properties(DefaultChannelBuilder(url))


@pytest.mark.parametrize("given", ["path", "text"])
def test_a_private_authority_is_trusted_if_it_is_configured(
    server: EmbeddedServer, authority: Authority, certificate: Certificate, given: str
) -> None:
    ca = str(authority.path) if given == "path" else authority.certificate
    with (
        Relay(server.port, tls=authority.server_tls(certificate)) as relay,
        Session(Endpoint(host="localhost", port=relay.port, tls=True, ca_certificate=ca)) as session,
    ):
        assert session.spark.range(5).count() == 5


@pytest.mark.parametrize("given", ["path", "text"])
def test_a_client_certificate_is_sent_to_a_server_that_requires_one(
    server: EmbeddedServer, authority: Authority, certificate: Certificate, given: str
) -> None:
    client = authority.issue("client")
    given_as: dict[str, dict[str, Any]] = {
        "path": {"client_certificate": str(client.path), "client_key": str(client.key_path)},
        "text": {"client_certificate": client.certificate, "client_key": client.key},
    }
    with Relay(server.port, tls=authority.server_tls(certificate, client_required=True)) as relay:
        ca = str(authority.path)
        endpoint = Endpoint(host="localhost", port=relay.port, tls=True, ca_certificate=ca, **given_as[given])
        assert check_server(endpoint).startswith("4.")


def test_invalid_certificates_and_keys_are_reported_before_a_call(authority: Authority, tmp_path: Path) -> None:
    client, other = authority.issue("client"), authority.issue("other")
    expired = authority.issue("expired", since=-3, until=-2)
    garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    locked = serialization.load_pem_private_key(client.key.encode(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    bare_key = "".join(client.key.splitlines()[1:-1])
    invalid: list[tuple[dict[str, Any], str]] = [
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
        ({"client_certificate": client.certificate, "client_key": bare_key}, "Could not read client_key"),
        ({"client_certificate": client.certificate, "client_key": "a\0b"}, "Could not read client_key"),
        ({"ca_certificate": garbled}, "ca_certificate is not a readable certificate"),
        ({"ca_certificate": client.key}, "ca_certificate is not a readable certificate"),
    ]
    for fields, problem in invalid:
        with pytest.raises(InvalidArgumentError, match=problem) as caught:
            check_server(Endpoint(host="localhost", port=1, tls=True, **fields))
        assert bare_key[:20] not in str(caught.value)


def test_a_token_is_sent_over_tls_and_never_shown(
    token_server: tuple[str, int, str],
    tokens: tuple[str, str],
    authority: Authority,
    certificate: Certificate,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("SparkConnectClient", "grpc", "pyspark"):
        caplog.set_level(logging.DEBUG, name)
    host, port, _ = token_server
    with Relay(port, tls=authority.server_tls(certificate)) as relay:
        endpoint = Endpoint(host=host, port=relay.port, tls=True, ca_certificate=authority.certificate)
        right, wrong = (replace(endpoint, token=each) for each in tokens)
        with Session(right) as session:
            assert session.spark.range(5).count() == 5
            with pytest.raises(PySparkException) as failed:
                session.spark.sql("SELECT no_such_function()").collect()
            seen = [repr(shown) for shown in (right, wrong, session, session.spark, failed.value)]
        with pytest.raises(ConnectError, match="rejected the bearer token") as caught:
            check_server(wrong)
    seen += [str(failed.value), str(caught.value), caplog.text, *capfd.readouterr()]
    assert not [text for text in seen if any(each in text for each in tokens)]


@pytest.mark.parametrize("from_environment", [False, True])
def test_headers_and_the_user_are_sent_with_every_kind_of_call(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_environment: bool
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
    ("fields", "problem"),
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
def test_values_that_grpc_cannot_send_are_rejected_at_once(fields: dict[str, Any], problem: str) -> None:
    given: dict[str, Any] = {"host": "spark", "tls": True, **fields}
    with pytest.raises(InvalidArgumentError, match=problem) as caught:
        Endpoint(**given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "a-token"])
def test_ipv6_works(server: EmbeddedServer, token: str | None) -> None:
    try:
        relay = Relay(server.port, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with relay, Session(Endpoint(host="::1", port=relay.port, token=token)) as session:
        assert session.spark.range(5).count() == 5


def test_loopback_addresses_are_recognized() -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.0.1.1", "::1"):
        assert Endpoint(host=host).is_loopback
    for host in ("spark", "localhost.example.org", "10.0.0.1", "2001:db8::1"):
        assert not Endpoint(host=host).is_loopback


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_proxy_is_used_for_this_machine(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert check_server(Endpoint(host=host, port=server.port, request_timeout=5)).startswith("4.")


def test_a_query_continues_when_its_connections_are_cut_and_counts_exactly(relay: Relay, tmp_path: Path) -> None:
    with Session(Endpoint(host="127.0.0.1", port=relay.port, request_timeout=20)) as session:
        count = session.accumulator("count")
        marks = str(tmp_path)

        @udf("long")
        def counted(value: int) -> int:
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
        # Each partition was computed once: the client reattached to the query and did not send it again.
        assert len(list(tmp_path.iterdir())) == 4
        assert count.value == 1000
        assert session.spark.range(5).count() == 5


@pytest.mark.parametrize("how", ["dropped", "refused"])
def test_a_stream_that_is_not_read_to_the_end_frees_the_cluster(
    session: Session, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    count = session.accumulator("count")
    slow = slowly(1)

    @udf("long")
    def counted(value: int) -> int:
        count.add(1)
        return value

    # 200 seconds for two executors with one core each, unless it is stopped.
    rows = session.spark.range(0, 400, 1, 400).select(slow(counted("id")).alias("n")).toLocalIterator()
    assert next(rows).n == 0
    if how == "refused":

        def refuse(operation_id: str, response: object) -> None:
            raise SessionError("refused by the test")

        with monkeypatch.context() as patch:
            patch.setattr(session._collector, "on_response", refuse)
            with pytest.raises(SessionError, match="refused by the test"):
                list(rows)
    with ends_within(120):
        del rows
        assert session.spark.range(0, 10, 1, 2).count() == 10
    assert count.value == 0


def test_a_stream_that_fails_in_the_middle_reports_why_and_counts_nothing(session: Session) -> None:
    count = session.accumulator("count")

    @udf("long")
    def failing(value: int) -> int:
        count.add(1)
        if value == 90:
            raise ValueError("row 90")
        return value

    rows = session.spark.range(0, 100, 1, 10).select(failing("id").alias("n")).toLocalIterator()
    with pytest.raises(PySparkException, match="row 90"):
        list(rows)
    assert count.value == 0


def test_an_action_whose_server_is_killed_fails_within_the_timeout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedServer("local[1]") as server:
        # A new server on a busy machine takes seconds to open its first session.
        session = Session(Endpoint(host=server.host, port=server.port, request_timeout=8))
        killed: list[float] = []

        def kill() -> None:
            os.kill(server.pid, signal.SIGKILL)
            killed.append(time.monotonic())

        # PySpark itself would retry for ten minutes.
        with (
            ends_within(180),
            session,
            when_exists(tmp_path / "started", kill),
            pytest.raises(PySparkException, match="Connection refused"),
        ):
            session.spark.range(1).select(slowly(600, tmp_path / "started")("id")).collect()
        assert time.monotonic() - killed[0] > 7.5
    assert "retrying for 8 s" in caplog.text
    assert "no server is listening there" in caplog.text


def test_an_action_fails_soon_if_its_server_stops_answering_new_connections(relay: Relay, tmp_path: Path) -> None:
    with (
        ends_within(180),
        Session(Endpoint(host="127.0.0.1", port=relay.port, request_timeout=4)) as session,
        when_exists(tmp_path / "started", lambda: relay.cut(mute=True)),
        pytest.raises(PySparkException),
    ):
        session.spark.range(1).select(slowly(5, tmp_path / "started")("id")).collect()


def test_a_server_that_starts_late_is_waited_for(server: EmbeddedServer) -> None:
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
