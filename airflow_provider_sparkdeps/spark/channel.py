"""The gRPC channel of a session: credentials, retries, and the interceptor that sees what passes.

Imports grpc and pyspark, so it is itself imported inside functions only.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grpc
import pyspark.sql.connect.proto as pb2
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from pyspark.sql.connect.client import ChannelBuilder
from pyspark.sql.connect.client.retries import DefaultPolicy, RetryPolicyState

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
from airflow_provider_sparkdeps.spark.endpoint import Endpoint, read_pem
from airflow_provider_sparkdeps.spark.grpc_errors import cause, reason

log = logging.getLogger(__name__)

# Servers before 4.3 take pings that come more often, or while nothing runs, for an attack, and close the connection.
_KEEPALIVE = {
    "grpc.keepalive_time_ms": 300_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
}
_MAX_BACKOFF_MS = 5_000
_CONNECT_TIMEOUT_MS = 20_000


class Observer(Protocol):
    """What is told of the operations that pass on a channel."""

    def sends(self, request: Any) -> Any: ...
    def saw(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None: ...
    def succeeded(self, operation_id: str) -> None: ...


class EndpointChannelBuilder(ChannelBuilder):
    """PySpark's channel builder over an `Endpoint`: private authorities, mutual TLS and headers included.

    :raises InvalidArgumentError: from `toChannel`, when certificates and key can't be read, or don't belong together.
    """

    def __init__(self, endpoint: Endpoint, *, session_id: str, user_agent: str) -> None:
        params = {self.PARAM_SESSION_ID: session_id, self.PARAM_USER_AGENT: user_agent}
        # Where none is given, PySpark takes the user from these variables, yet for its own calls only.
        if user_id := endpoint.user_id or os.getenv("SPARK_USER", os.getenv("USER")):
            params[self.PARAM_USER_ID] = user_id
        super().__init__(params=params)
        self._endpoint = endpoint
        for option, value in _channel_options(endpoint).items():
            self.setChannelOption(option, value)

    @property
    def host(self) -> str:
        return self._endpoint.host

    def metadata(self) -> list[tuple[str, str]]:
        """The headers, which PySpark would take from among its own parameters, and drop those of the same name."""
        return list(self._endpoint.headers.items())

    def toChannel(self) -> grpc.Channel:
        credentials = _credentials(self._endpoint)
        if credentials is None:
            return self._insecure_channel(self._endpoint.target)
        return self._secure_channel(self._endpoint.target, credentials)


def _channel_options(endpoint: Endpoint) -> dict[str, int]:
    timeout = int(endpoint.request_timeout * 1000)
    options = _KEEPALIVE | {
        # This is also how long one attempt to connect may take.
        "grpc.min_reconnect_backoff_ms": min(_CONNECT_TIMEOUT_MS, max(1_000, timeout // 2)),
        # gRPC's own, 2 minutes, would leave a server that is back unnoticed for as long.
        "grpc.max_reconnect_backoff_ms": _MAX_BACKOFF_MS,
        # All tasks' accumulator updates come in one response; 2 GB is all that a message can have.
        "grpc.max_receive_message_length": (1 << 31) - 1,
    }
    if endpoint.is_loopback:
        # gRPC would ask the proxy of http_proxy for a server on the proxy's machine.
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
    """Read the client's certificate and key, and check what gRPC would merely fail its handshakes for."""
    certificate = read_pem(endpoint.client_certificate, "client_certificate")
    key = read_pem(endpoint.client_key, "client_key")
    if certificate is None or key is None:
        return None, None
    own = _load_certificates(certificate, "client_certificate")[0]
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise InvalidArgumentError(
            "client_key has a passphrase: give the key without one (openssl pkey takes it off)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidArgumentError(
            "client_key holds no private key that can be read: give one as PEM, or its file"
        ) from None
    if private.public_key() != own.public_key():
        raise InvalidArgumentError(
            "client_key is not the key of client_certificate: give the pair that was issued together, with the "
            "client's own certificate first if there are several"
        )
    if own.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise InvalidArgumentError(
            f"client_certificate expired at {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: have it renewed"
        )
    return certificate, key


def _load_certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise InvalidArgumentError(
            f"{name} holds no certificate that can be read: give the text between and with -----BEGIN CERTIFICATE----- "
            "and -----END CERTIFICATE-----, or its file"
        ) from None


class TimedRetries(DefaultPolicy):
    """PySpark's retries, bounded by time instead of number: `request_timeout` from a call's first failure."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(max_retries=None, max_backoff=_MAX_BACKOFF_MS)
        self._endpoint = endpoint

    def to_state(self) -> RetryPolicyState:
        """Called by PySpark for each call."""
        return _TimedState(self, self._endpoint)


class _TimedState(RetryPolicyState):
    def __init__(self, policy: TimedRetries, endpoint: Endpoint) -> None:
        super().__init__(policy)
        self._endpoint = endpoint
        self._failure: BaseException | None = None
        self._deadline: float | None = None

    def can_retry(self, exception: BaseException) -> bool:
        self._failure = exception
        return bool(super().can_retry(exception))

    def next_attempt(self, *exception: Any) -> int | None:
        now = time.monotonic()
        target, timeout = self._endpoint.target, self._endpoint.request_timeout
        error = self._failure if isinstance(self._failure, grpc.RpcError) else None
        if self._deadline is None:
            self._deadline = now + timeout
            if error:
                log.warning("Lost Spark Connect at %s (%s); trying again for %g s.", target, reason(error), timeout)
        left = int((self._deadline - now) * 1000)
        wait = super().next_attempt(*exception)
        if wait is not None and left > 0:
            return min(wait, left)
        if error:
            log.error("Gave up Spark Connect at %s after %g s: %s", target, timeout, cause(error, self._endpoint))
        return None


class OperationInterceptor(grpc.UnaryStreamClientInterceptor, grpc.UnaryUnaryClientInterceptor):
    """Tags each operation, from whichever thread it comes, weighs its functions, and shows what passes to an observer.

    :param scales: refuses requests whose functions are too large, before they are sent.
    """

    def __init__(self, observer: Observer, *, tags: Sequence[str] = (), scales: RequestSizeLimit | None = None) -> None:
        self._observer = observer
        self._tags = tags
        self._scales = scales or RequestSizeLimit()

    def __deepcopy__(self, memo: dict[int, Any]) -> OperationInterceptor:
        # PySpark copies the builder for a cloned session, whose operations belong to the same observer.
        return self

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each stream: `ExecutePlan`, and `ReattachExecute` after an interruption."""
        self._scales.weigh(request)
        if isinstance(request, pb2.ExecutePlanRequest):
            request.tags.extend(tag for tag in self._tags if tag not in request.tags)
        stream = continuation(client_call_details, self._observer.sends(request))
        return _ObservedStream(stream, request, self._observer)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each plain call: `AnalyzePlan` (which also caches), `Config`, ..."""
        self._scales.weigh(request)
        return continuation(client_call_details, self._observer.sends(request))


class _ObservedStream:
    """A response stream that shows what it yields; all else is the stream's own."""

    def __init__(self, stream: Any, request: Any, observer: Observer) -> None:
        self._stream = stream
        self._observer = observer
        self._operation_id: str = request.operation_id
        options = getattr(request, "request_options", ())
        # A reattachable stream may end at any time, and says by a response of its own that the operation is complete.
        self._ends_without_word = isinstance(request, pb2.ExecutePlanRequest) and not any(
            option.reattach_options.reattachable for option in options
        )

    def __iter__(self) -> Iterator[pb2.ExecutePlanResponse]:
        return self

    def __next__(self) -> pb2.ExecutePlanResponse:
        try:
            response: pb2.ExecutePlanResponse = next(self._stream)
        except StopIteration:
            if self._ends_without_word:
                self._observer.succeeded(self._operation_id)
            raise
        self._operation_id = response.operation_id or self._operation_id
        self._observer.saw(self._operation_id, response)
        if response.HasField("result_complete"):
            self._observer.succeeded(self._operation_id)
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
