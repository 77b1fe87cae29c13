"""Messages about servers that cannot be used, from real sockets, certificates and other kinds of servers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace

import grpc
import pytest

from airflow_provider_sparkdeps.exceptions import ConnectError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import RpcClient, check_server
from airflow_provider_sparkdeps.spark.session import Session

from ..support.relays import Authority, Relay
from ..support.waiting import ends_within

TIMEOUT = 2.0


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which each connection gets this answer and is then closed."""

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    listening = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listening.getsockname()[1]
    finally:
        # Closing alone would leave the thread in its `accept`.
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listening.close()


def close(connection: socket.socket) -> None:
    connection.recv(10)


def reset(connection: socket.socket) -> None:
    connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def not_found(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def ssh(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.recv(10)


def silence(connection: socket.socket) -> None:
    while connection.recv(1000):
        pass


def message_of(endpoint: Endpoint, *, is_transient: bool) -> str:
    """Return the message of a session that cannot be opened; it is retried until the timeout only if that may help."""
    attempts: list[float] = []
    server_version = RpcClient.server_version

    def counted(rpc: RpcClient, timeout: float) -> str:
        attempts.append(timeout)
        return server_version(rpc, timeout)

    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RpcClient, "server_version", counted)
        with ends_within(), pytest.raises(ConnectError) as caught, Session(endpoint):
            pass
    if is_transient:
        assert time.monotonic() - started > endpoint.request_timeout / 2
    else:
        assert len(attempts) == 1
    error, message = caught.value, str(caught.value)
    assert message.startswith(f"Could not open a Spark Connect session at {endpoint.target}: ")
    assert "\n" not in message
    # Without a traceback of grpc.
    assert error.__suppress_context__
    assert error.__cause__ is None
    return message


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("an authority that the system does not know", "Set the authority's certificate in ca_certificate"),
        ("another authority", "Set the authority's certificate in ca_certificate"),
        ("a self-signed certificate", "Set the authority's certificate in ca_certificate"),
        ("another host", "for another host name"),
        ("an expired certificate", "Renew the server's certificate"),
        ("a certificate of tomorrow", "not valid yet"),
        ("no HTTP/2", "without HTTP/2"),
    ],
)
def test_a_problem_of_the_servers_certificate_is_reported_at_once(
    server: EmbeddedServer, authority: Authority, stranger: Authority, case: str, message: str
) -> None:
    shown = authority.issue(
        "server",
        hosts=("spark.example.org",) if case == "another host" else ("localhost",),
        since=1 if case == "a certificate of tomorrow" else -4,
        until=-3 if case == "an expired certificate" else 2,
    )
    if case == "a self-signed certificate":
        shown = stranger.own_certificate()
    trusted = {
        "an authority that the system does not know": None,
        "another authority": stranger.certificate,
    }.get(case, authority.certificate)
    tls = authority.server_tls(shown)
    if case == "no HTTP/2":
        tls.set_alpn_protocols(["http/1.1"])
    with Relay(server.port, tls=tls) as relay:
        endpoint = Endpoint(
            host="localhost", port=relay.port, tls=True, ca_certificate=trusted, request_timeout=TIMEOUT
        )
        assert message in message_of(endpoint, is_transient=False)


@pytest.fixture(params=["no certificate", "another authority"])
def rejected_client(request: pytest.FixtureRequest, authority: Authority, stranger: Authority) -> tuple[Endpoint, str]:
    """An endpoint that a server which requires client certificates of `authority` rejects, and what is reported."""
    endpoint = Endpoint(host="localhost", tls=True, ca_certificate=authority.certificate, request_timeout=TIMEOUT)
    if request.param == "no certificate":
        return endpoint, "set client_certificate and client_key"
    own = stranger.issue("client")
    endpoint = replace(endpoint, client_certificate=own.certificate, client_key=own.key)
    return endpoint, "may not trust the issuer of client_certificate"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_requires_another_client_certificate_is_reported(
    authority: Authority, rejected_client: tuple[Endpoint, str], version: ssl.TLSVersion
) -> None:
    tls = authority.server_tls(authority.issue("server", hosts=("localhost",)), client_required=True)
    tls.maximum_version = version

    def handshake(connection: socket.socket) -> None:
        # Unlike asyncio, this sends the alert with the reason.
        with tls.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1000)

    endpoint, message = rejected_client
    with answering(handshake) as port:
        assert message in message_of(replace(endpoint, port=port), is_transient=False)


def test_a_grpc_server_that_requires_another_client_certificate_is_reported(
    authority: Authority, rejected_client: tuple[Endpoint, str]
) -> None:
    certificate = authority.issue("server", hosts=("localhost",))
    pair = (certificate.key.encode(), certificate.certificate.encode())
    credentials = grpc.ssl_server_credentials([pair], authority.certificate.encode(), require_client_auth=True)
    endpoint, message = rejected_client
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_secure_port("127.0.0.1:0", credentials)
    other.start()
    try:
        # gRPC reports only a closed socket, as when a server restarts.
        assert message in message_of(replace(endpoint, port=port), is_transient=True)
    finally:
        other.stop(0).wait()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_a_server_with_an_old_tls_version_is_reported(authority: Authority) -> None:
    tls = authority.server_tls(authority.issue("server", hosts=("localhost",)))
    tls.set_ciphers("ALL:@SECLEVEL=0")
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1

    def handshake(connection: socket.socket) -> None:
        with tls.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1000)

    with answering(handshake) as port:
        endpoint = Endpoint(host="localhost", port=port, tls=True, request_timeout=TIMEOUT)
        assert "TLS 1.2 or 1.3" in message_of(endpoint, is_transient=False)


def test_tls_on_a_port_without_it_is_reported_and_the_reverse(server: EmbeddedServer, authority: Authority) -> None:
    unencrypted = Endpoint(host="localhost", port=server.port, tls=True, request_timeout=TIMEOUT)
    assert "Disable TLS" in message_of(unencrypted, is_transient=False)
    certificate = authority.issue("server", hosts=("localhost",))
    with Relay(server.port, tls=authority.server_tls(certificate)) as relay:
        encrypted = Endpoint(host="localhost", port=relay.port, request_timeout=TIMEOUT)
        assert "whether it requires TLS" in message_of(encrypted, is_transient=True)


@pytest.mark.parametrize(
    ("answer", "tls", "message", "is_transient"),
    [
        (close, False, "it closed the connection", True),
        (close, True, "aborted the TLS handshake", True),
        (reset, False, "it closed the connection", True),
        (reset, True, "aborted the TLS handshake", True),
        (not_found, False, "does not speak gRPC", False),
        (not_found, True, "Disable TLS", False),
        (ssh, False, "does not speak gRPC", False),
        (ssh, True, "Disable TLS", False),
        (silence, False, "no response", True),
        (silence, True, "no response", True),
    ],
)
def test_a_service_that_is_not_spark_is_reported(
    answer: Callable[[socket.socket], None], tls: bool, message: str, is_transient: bool
) -> None:
    with answering(answer) as port:
        endpoint = Endpoint(host="127.0.0.1", port=port, tls=tls, request_timeout=TIMEOUT)
        assert message in message_of(endpoint, is_transient=is_transient)


@pytest.mark.parametrize("after", [1, 20, 40])
def test_a_connection_that_is_reset_in_the_middle_is_reported(server: EmbeddedServer, after: int) -> None:
    with Relay(server.port, reset_after=after) as relay:
        endpoint = Endpoint(host="127.0.0.1", port=relay.port, request_timeout=TIMEOUT)
        assert "it closed the connection" in message_of(endpoint, is_transient=True)


def test_a_grpc_server_without_spark_is_reported() -> None:
    other = grpc.server(futures.ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    try:
        endpoint = Endpoint(host="127.0.0.1", port=port, request_timeout=TIMEOUT)
        assert "not a Spark Connect server" in message_of(endpoint, is_transient=False)
    finally:
        other.stop(0).wait()


def test_an_address_that_accepts_no_connections_is_reported() -> None:
    # With a full queue, Linux drops new connections, as a firewall does.
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(listening.getsockname())
        endpoint = Endpoint(host="127.0.0.1", port=listening.getsockname()[1], request_timeout=TIMEOUT)
        assert "no response" in message_of(endpoint, is_transient=True)


@pytest.mark.parametrize(
    ("answer", "message"), [(not_found, "did not allow the connection"), (close, "closed the connection")]
)
def test_a_proxy_in_between_is_reported(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None], message: str
) -> None:
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with answering(answer) as port:
        monkeypatch.setenv("http_proxy", f"http://user:proxy-password@127.0.0.1:{port}")
        with pytest.raises(ConnectError, match=message) as caught:
            check_server(Endpoint(host="spark.example.org", request_timeout=TIMEOUT))
    assert "$http_proxy is set" in str(caught.value)
    assert "proxy-password" not in str(caught.value)
