"""Relays between a client and a server: of bytes and of calls, with TLS and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import pyspark.sql.connect.proto as pb2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Relay:
    """Relays bytes between clients on a loopback port and a server, and terminates TLS if there is a context.

    :param port: the server's port on 127.0.0.1.
    :param tls: TLS for clients; none by default.
    :param host: the address to listen on.
    :param own_port: the port to listen on; a free one by default.
    :param reset_after: bytes from the server after which a connection is reset; never by default.
    """

    def __init__(
        self,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        own_port: int = 0,
        reset_after: int | None = None,
    ) -> None:
        self._behind = port
        self._tls = tls
        self._reset_after = reset_after
        self._is_mute = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, own_port), family=family)
        self.port: int = self._listening.getsockname()[1]
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(5)

    def cut(self, *, mute: bool = False) -> int:
        """Reset all connections; return how many there were.

        :param mute: accept new connections, but never answer on them.
        """

        async def cut() -> int:
            self._is_mute = mute
            return self._reset()

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda loop, context: None)
        serving = asyncio.start_server(self._relay, sock=self._listening, ssl=self._tls)
        self._server = self._loop.run_until_complete(serving)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with contextlib.suppress(BaseException):
                self._loop.run_until_complete(task)
        self._loop.close()

    def _stop(self) -> None:
        self._server.close()
        self._reset()
        self._loop.stop()

    def _reset(self) -> int:
        for writer in self._open:
            writer.transport.abort()
        count, self._open = len(self._open) // 2, set()
        return count

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_mute:
            await asyncio.sleep(3600)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        self._open |= {writer, there_writer}
        try:
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer, self._reset_after))
        finally:
            self._open -= {writer, there_writer}
            for end in (writer, there_writer):
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, at_most: int | None = None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
            passed += len(data)
            if at_most is not None and passed >= at_most:
                writer.transport.abort()
                return
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()


@dataclass(frozen=True)
class Call:
    """A call as it was received."""

    method: str
    headers: dict[str, str]
    request: Any


class Recorder(grpc.GenericRpcHandler):
    """A gRPC server that forwards each call to a Spark Connect server and records it."""

    def __init__(self, port: int) -> None:
        self.calls: list[Call] = []
        self._onward = grpc.insecure_channel(f"127.0.0.1:{port}")
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers((self,))
        self.port: int = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()
        self._onward.close()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Called by gRPC for each call. On the wire, all kinds of calls are streams."""
        headers = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}
        return grpc.stream_stream_rpc_method_handler(self._pass_on(details.method, headers))

    def _pass_on(self, path: str, headers: dict[str, str]) -> Callable[..., Iterator[bytes]]:
        method = path.rpartition("/")[2]
        name = {"ArtifactStatus": "ArtifactStatuses"}.get(method, method)

        def seen(requests: Iterator[bytes]) -> Iterator[bytes]:
            for request in requests:
                self.calls.append(Call(method, headers, getattr(pb2, f"{name}Request").FromString(request)))
                yield request

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call: Any = self._onward.stream_stream(path)
            answers = call(seen(requests))
            context.add_callback(answers.cancel)
            try:
                yield from answers
            except grpc.RpcError as failure:
                error: Any = failure
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())

        return handle


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM and in files."""

    certificate: str
    key: str
    path: Path
    key_path: Path


class Authority:
    """A private authority that signs certificates."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _pem(
            self._sign(self._key, name, issuer=name, hosts=(), since=-1, until=1, is_authority=True)
        )
        self.path = directory / f"{name}.pem"
        self.path.write_text(self.certificate)

    def issue(self, name: str, *, hosts: tuple[str, ...] = (), since: int = -1, until: int = 1) -> Certificate:
        """Return a certificate for hosts and addresses, valid between two days counted from today."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _pem(self._sign(key, name, issuer=self._name, hosts=hosts, since=since, until=until))
        return self._write(name, certificate, key)

    def own_certificate(self) -> Certificate:
        """Return the authority's self-signed certificate."""
        return self._write(self._name, self.certificate, self._key)

    def server_tls(self, server: Certificate, *, client_required: bool = False) -> ssl.SSLContext:
        """Return the TLS context of a server, which may require client certificates of this authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.path, server.key_path)
        context.set_alpn_protocols(["h2"])
        if client_required:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.path)
        return context

    def _write(self, name: str, certificate: str, key: ec.EllipticCurvePrivateKey) -> Certificate:
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        path, key_path = self._directory / f"{name}.pem", self._directory / f"{name}.key.pem"
        path.write_text(certificate)
        key_path.write_text(secret)
        return Certificate(certificate, secret, path, key_path)

    def _sign(
        self,
        key: ec.EllipticCurvePrivateKey,
        name: str,
        *,
        issuer: str,
        hosts: tuple[str, ...],
        since: int,
        until: int,
        is_authority: bool = False,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=since))
            .not_valid_after(now + datetime.timedelta(days=until))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if hosts:
            names = [_general_name(host) for host in hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
