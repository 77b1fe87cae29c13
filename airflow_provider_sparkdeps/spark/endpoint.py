"""The address of a Spark Connect server, with credentials and limits: a frozen value."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from airflow_provider_sparkdeps.archives.uris import EXPIRATION, EXPIRATION_BOUNDS, validate_store_uri
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

Delivery = Literal["upload", "reference"]

DEFAULT_PORT = 15002
_HEADER = re.compile(r"[a-z0-9_.-]+")
# gRPC and HTTP/2 set these headers themselves and would drop ours.
_RESERVED_HEADERS = frozenset({"connection", "content-type", "host", "te", "user-agent"})
_VISIBLE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A Spark Connect server, the credentials for it, and limits of the connection.

    :param host: host name or address, without scheme.
    :param port: TCP port.
    :param user_id: Spark Connect user. The server keeps the sessions of different users apart.
    :param token: bearer token. It is only sent over TLS or to a loopback address.
    :param tls: whether to encrypt. By default, if there is a token and the host is not this machine.
    :param ca_certificate: PEM text, or path of a PEM file. The system's authorities by default.
    :param client_certificate: PEM text or path, for mutual TLS. Requires `client_key`.
    :param client_key: PEM text or path.
    :param headers: additional gRPC metadata, sent with every call.
    :param session_conf: Spark conf that each session starts with.
    :param ui_url: URL of this cluster's Spark UI.
    :param delivery: how archives reach executors: `upload` through this client, or `reference`, read by the cluster.
    :param archive_store_uri: URI of the archive store as the cluster sees it, if it differs from the worker's; used
        with `reference`.
    :param presigned_url_expiration: seconds until a presigned URL expires; used with `reference` if the store signs.
    :param request_timeout: maximum time in seconds to connect, or to retry a call.
    :raises InvalidArgumentError: if a field is invalid. The message names it.
    """

    host: str
    port: int = DEFAULT_PORT
    user_id: str | None = None
    token: str | None = field(default=None, repr=False)
    tls: bool | None = None
    ca_certificate: str | None = field(default=None, repr=False)
    client_certificate: str | None = field(default=None, repr=False)
    client_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    session_conf: Mapping[str, str] = field(default_factory=dict, repr=False)
    ui_url: str | None = None
    delivery: Delivery = "upload"
    archive_store_uri: str | None = field(default=None, repr=False)
    presigned_url_expiration: float = EXPIRATION
    request_timeout: float = 60.0

    def __post_init__(self) -> None:
        if not self.host or re.search(r"[\s/;]", self.host):
            raise InvalidArgumentError(
                f"host={self.host!r} is not a host name. Write only the name or address, for example spark.example.org."
            )
        if ":" in self.host and _ip_address(self.host) is None:
            raise InvalidArgumentError(
                f"host={self.host!r} is neither a host name nor an IPv6 address. Write it without port and brackets; "
                "the port has its own field."
            )
        if not 0 < self.port < 65536:
            raise InvalidArgumentError(
                f"port={self.port} is not between 1 and 65535. The default port of Spark Connect is {DEFAULT_PORT}."
            )
        if self.delivery not in get_args(Delivery):
            raise InvalidArgumentError(
                f"delivery={self.delivery!r} is not supported. Choose one of: {', '.join(get_args(Delivery))}."
            )
        if self.archive_store_uri is not None:
            validate_store_uri(self.archive_store_uri, "archive_store_uri")
        shortest, longest = EXPIRATION_BOUNDS
        if not shortest <= self.presigned_url_expiration <= longest:
            raise InvalidArgumentError(
                f"presigned_url_expiration={self.presigned_url_expiration!r} is out of range. Set a number of seconds "
                f"from {shortest:.0f} to {longest:.0f} (7 days, the maximum of object stores)."
            )
        if not 0 < self.request_timeout < float("inf"):
            raise InvalidArgumentError(
                f"request_timeout={self.request_timeout!r} is not a number of seconds greater than 0."
            )
        for name, value in self.headers.items():
            reserved = name in _RESERVED_HEADERS or name.endswith("-bin") or name.startswith("grpc-")
            if reserved or not _HEADER.fullmatch(name):
                raise InvalidArgumentError(
                    f"Header name {name!r} is not allowed. Use lower-case letters, digits, '-', '_' and '.'. Names "
                    "that start with 'grpc-' or end with '-bin' are reserved, and so are "
                    f"{', '.join(sorted(_RESERVED_HEADERS))}."
                )
            if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
                raise InvalidArgumentError(
                    f"The value of header {name!r} is not allowed. Use a string of printable ASCII characters without "
                    "leading or trailing spaces."
                )
        if self.token is not None and not _VISIBLE.fullmatch(self.token):
            raise InvalidArgumentError(
                "The bearer token (the connection's password) contains a character that is not allowed, for example a "
                "line break or a trailing space. Copy the token again."
            )
        if bool(self.client_certificate) != bool(self.client_key):
            raise InvalidArgumentError("client_certificate and client_key must be set together: one is missing.")
        if self.tls is False and self.token and not self.is_loopback:
            raise InvalidArgumentError(
                f"The bearer token (the connection's password) would be sent to {self.host} unencrypted. Enable TLS or "
                "remove the token."
            )
        certificates = self.ca_certificate or self.client_certificate
        if certificates and not self.secure:
            raise InvalidArgumentError("Certificates are given, but TLS is off. Enable TLS or remove the certificates.")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        address = _ip_address(self.host)
        return self.host.lower() == "localhost" if address is None else address.is_loopback

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return bool(self.token) and not self.is_loopback if self.tls is None else self.tls

    @property
    def target(self) -> str:
        """`host:port`, as gRPC expects it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def read_pem(value: str | None, name: str) -> bytes | None:
    """Return the PEM bytes of a field that contains either the text or the path of a file.

    :raises InvalidArgumentError: if the file cannot be read or is not PEM. The message never contains a key.
    """
    if not value:
        return None
    if "-----BEGIN" in value:
        return value.encode()
    # A client_key that is not a path may be a key without its PEM header.
    shown = name if name == "client_key" else f"{name}={value!r}"
    try:
        content = Path(value).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise InvalidArgumentError(
            f"Could not read {shown}: {reason}. Set the path of a PEM file, or its text."
        ) from None
    if b"-----BEGIN" not in content:
        raise InvalidArgumentError(f"{shown} is not a PEM file: it has no line with -----BEGIN. Set another path.")
    return content
