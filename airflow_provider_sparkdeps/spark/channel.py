"""gRPC channels to a server: TLS, bearer tokens, headers and retries.

Imports grpc and pyspark, so import it inside functions only.
"""

from __future__ import annotations

import datetime
import logging
import os
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pyspark.sql.connect.client import ChannelBuilder

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.endpoint import Endpoint, read_pem
from airflow_provider_sparkdeps.spark.grpc_errors import describe, grpc_details
from airflow_provider_sparkdeps.spark.pyspark_compat import timed_retries

if TYPE_CHECKING:
    from pyspark.sql.connect.client.retries import RetryPolicy

log = logging.getLogger(__name__)

# Servers before 4.3 close connections whose pings are more frequent, or are sent while nothing runs.
_KEEPALIVE = {
    "grpc.keepalive_time_ms": 300_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
}
# Seconds.
_MAX_BACKOFF = 5
_CONNECT_TIMEOUT_MS = 20_000


class EndpointChannelBuilder(ChannelBuilder):
    """PySpark's channel builder for an `Endpoint`, with private authorities, mutual TLS and headers.

    :raises InvalidArgumentError: from `toChannel`, if certificates and key cannot be read or do not match.
    """

    def __init__(self, endpoint: Endpoint, *, session_id: str, user_agent: str) -> None:
        params = {self.PARAM_SESSION_ID: session_id, self.PARAM_USER_AGENT: user_agent}
        # PySpark's default, but PySpark applies it only to its own calls.
        if user_id := endpoint.user_id or os.getenv("SPARK_USER", os.getenv("USER")):
            params[self.PARAM_USER_ID] = user_id
        super().__init__(params=params)
        self._endpoint = endpoint
        for option, value in _channel_options(endpoint).items():
            self.setChannelOption(option, value)

    # PySpark and its users read these four, which only PySpark's builder of URLs has.
    @property
    def endpoint(self) -> str:
        return self._endpoint.target

    @property
    def host(self) -> str:
        return self.endpoint.rpartition(":")[0]

    @property
    def secure(self) -> bool:
        return self.use_ssl or self._endpoint.token is not None

    @property
    def use_ssl(self) -> bool:
        return self._endpoint.secure

    def metadata(self) -> list[tuple[str, str]]:
        """Return the headers. PySpark would drop those with the name of one of its own parameters."""
        return list(self._endpoint.headers.items())

    def toChannel(self) -> grpc.Channel:
        credentials = _credentials(self._endpoint)
        if credentials is None:
            return self._insecure_channel(self._endpoint.target)
        return self._secure_channel(self._endpoint.target, credentials)


def _channel_options(endpoint: Endpoint) -> dict[str, int]:
    timeout = int(endpoint.request_timeout * 1000)
    options = _KEEPALIVE | {
        # This is also the time limit of one attempt to connect.
        "grpc.min_reconnect_backoff_ms": min(_CONNECT_TIMEOUT_MS, max(1_000, timeout // 2)),
        # With gRPC's default of 2 minutes, a server that is back would be noticed late.
        "grpc.max_reconnect_backoff_ms": _MAX_BACKOFF * 1000,
        # One response has the accumulator updates of all tasks. 2 GB is the maximum size of a message.
        "grpc.max_receive_message_length": (1 << 31) - 1,
    }
    if endpoint.is_loopback:
        # With http_proxy set, gRPC would connect through the proxy even to this machine.
        options["grpc.enable_http_proxy"] = 0
    return options


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    if endpoint.secure:
        certificate, key = _client_identity(endpoint)
        authorities = read_pem(endpoint.ca_certificate, "ca_certificate")
        if authorities:
            _load_certificates(authorities, "ca_certificate")
        credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    elif endpoint.token:
        credentials = grpc.local_channel_credentials()
    else:
        return None
    if endpoint.token:
        token = grpc.access_token_call_credentials(endpoint.token)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return credentials


def _client_identity(endpoint: Endpoint) -> tuple[bytes | None, bytes | None]:
    """Read the client's certificate and key, and check them, since gRPC does not explain why a handshake fails."""
    certificate = read_pem(endpoint.client_certificate, "client_certificate")
    key = read_pem(endpoint.client_key, "client_key")
    if certificate is None or key is None:
        return None, None
    own = _load_certificates(certificate, "client_certificate")[0]
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise InvalidArgumentError(
            "client_key is encrypted with a passphrase. Remove the passphrase (openssl pkey)."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgumentError(
            "client_key is not a readable private key. Set the PEM text of a private key, or the path of its file."
        ) from None
    if private.public_key() != own.public_key():
        raise InvalidArgumentError(
            "client_key does not match client_certificate. Use the pair that was issued together; in a chain, the "
            "client's own certificate comes first."
        )
    if own.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise InvalidArgumentError(
            f"client_certificate expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC. Renew it."
        )
    return certificate, key


def _load_certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidArgumentError(
            f"{name} is not a readable certificate. Set its PEM text, including the lines -----BEGIN CERTIFICATE----- "
            "and -----END CERTIFICATE-----, or the path of its file."
        ) from None


def retry_policy(endpoint: Endpoint) -> RetryPolicy:
    """Return PySpark's retries, limited to `request_timeout` from a call's first failure."""
    target, timeout = endpoint.target, endpoint.request_timeout

    def warn(error: BaseException) -> None:
        if isinstance(error, grpc.RpcError):
            log.warning(
                "Lost the connection to Spark Connect at %s (%s); retrying for %g s.",
                target,
                grpc_details(error),
                timeout,
            )

    def give_up(error: BaseException) -> None:
        if isinstance(error, grpc.RpcError):
            log.error(
                "Could not reconnect to Spark Connect at %s in %g s: %s", target, timeout, describe(error, endpoint)
            )

    return timed_retries(timeout, max_backoff=_MAX_BACKOFF, on_failure=warn, on_give_up=give_up)
