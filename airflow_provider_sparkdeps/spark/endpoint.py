"""Where a Spark Connect server is, and how to talk to it: a frozen value."""

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
# What gRPC and HTTP/2 write themselves: a header of this name would not arrive.
_RESERVED_HEADERS = frozenset({"connection", "content-type", "host", "te", "user-agent"})
_VISIBLE = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A Spark Connect server, the credentials for it, and the bounds of talking to it.

    :param host: name or address, without scheme.
    :param port: TCP port.
    :param user_id: the Spark Connect user; the server keeps sessions of users apart.
    :param token: bearer token; sent over TLS, or to this machine's loopback.
    :param tls: encrypt; None means "if there is a token and the host is not this machine".
    :param ca_certificate: PEM text or the path of a PEM file; the system's authorities by default.
    :param client_certificate: PEM text or path, for mutual TLS; goes with `client_key`.
    :param client_key: PEM text or path.
    :param headers: extra gRPC metadata, sent with every call.
    :param session_conf: Spark conf that each session starts with.
    :param ui_url: where people see this cluster's Spark UI.
    :param delivery: how archives reach executors: `upload` through this client, or `reference`, read by the cluster.
    :param archive_store_uri: with `reference`, the archive store's address as the cluster sees it, if that is another
        than the worker's.
    :param presigned_url_expiration: with `reference`, seconds for which a presigned URL is good, where the store signs.
    :param request_timeout: seconds that connecting, and retrying one call, may take.
    :raises InvalidArgumentError: a value can't be meant; the message names the field.
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
                f"host {self.host!r} is no host name: write the name or address alone, such as spark.example.org"
            )
        if ":" in self.host and _address(self.host) is None:
            raise InvalidArgumentError(
                f"host {self.host!r} is neither a name nor an IPv6 address: write it without port and brackets; the "
                "port has a field of its own"
            )
        if not 0 < self.port < 65536:
            raise InvalidArgumentError(
                f"port {self.port} is not between 1 and 65535; Spark Connect's default is {DEFAULT_PORT}"
            )
        if self.delivery not in get_args(Delivery):
            raise InvalidArgumentError(
                f"delivery {self.delivery!r} is unknown: write one of {', '.join(get_args(Delivery))}"
            )
        if self.archive_store_uri is not None:
            validate_store_uri(self.archive_store_uri, "archive_store_uri")
        shortest, longest = EXPIRATION_BOUNDS
        if not shortest <= self.presigned_url_expiration <= longest:
            raise InvalidArgumentError(
                f"presigned_url_expiration is {self.presigned_url_expiration!r}; write a number of seconds from "
                f"{shortest:.0f} to {longest:.0f} (7 days, the longest that object stores sign)"
            )
        if not self.request_timeout > 0:
            raise InvalidArgumentError(
                f"request_timeout is {self.request_timeout!r}; write a number of seconds above 0"
            )
        for name, value in self.headers.items():
            reserved = name in _RESERVED_HEADERS or name.endswith("-bin") or name.startswith("grpc-")
            if reserved or not _HEADER.fullmatch(name):
                raise InvalidArgumentError(
                    f"header {name!r} can't be sent: names are lower-case letters, digits, '-', '_' and '.', "
                    "do not start with 'grpc-' nor end with '-bin', and are none of "
                    f"{', '.join(sorted(_RESERVED_HEADERS))}"
                )
            if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
                raise InvalidArgumentError(
                    f"the value of header {name!r} can't be sent: write a text of ASCII characters without line "
                    "breaks, and without blanks at its ends"
                )
        if self.token is not None and not _VISIBLE.fullmatch(self.token):
            raise InvalidArgumentError(
                "the bearer token (the password) holds a character that can't be sent, such as a line break or a "
                "blank at its end: copy it anew"
            )
        if bool(self.client_certificate) != bool(self.client_key):
            raise InvalidArgumentError("client_certificate and client_key go together: one of them is missing")
        if self.tls is False and self.token and not self.is_loopback:
            raise InvalidArgumentError(
                f"a bearer token (the password) would go to {self.host} in the clear: switch TLS on, "
                "or take the token out"
            )
        certificates = self.ca_certificate or self.client_certificate
        if certificates and not self.secure:
            raise InvalidArgumentError("certificates are given, but TLS is off: switch TLS on, or take them out")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        address = _address(self.host)
        return self.host.lower() == "localhost" if address is None else address.is_loopback

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return bool(self.token) and not self.is_loopback if self.tls is None else self.tls

    @property
    def target(self) -> str:
        """`host:port`, as gRPC takes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def read_pem(value: str | None, name: str) -> bytes | None:
    """Return the PEM bytes of a field that holds either the text or the path of a file.

    :raises InvalidArgumentError: the file can't be read, or holds no PEM; the message does not repeat a key.
    """
    if not value:
        return None
    if "-----BEGIN" in value:
        return value.encode()
    # What is no path may be the bare key.
    shown = "the file" if name == "client_key" else repr(value)
    try:
        content = Path(value).expanduser().read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "that is no path"
        raise InvalidArgumentError(f"{name}: can't read {shown} ({reason}): give a PEM file, or its text") from None
    if b"-----BEGIN" not in content:
        raise InvalidArgumentError(f"{name}: {shown} holds no PEM: its text should start with -----BEGIN")
    return content
