"""The gRPC channel of a session: credentials, and the interceptor that sees what passes.

Imports grpc and pyspark, so it is itself imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc
import pyspark.sql.connect.proto as pb2
from pyspark.sql.connect.client import ChannelBuilder

from airflow_provider_sparkdeps.spark.endpoint import Endpoint, read_pem

_KEEPALIVE = {
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 1,
}


class Observer(Protocol):
    """What is told of the operations that pass on a channel."""

    def sends(self, request: Any) -> Any: ...
    def saw(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None: ...
    def succeeded(self, operation_id: str) -> None: ...


class EndpointChannelBuilder(ChannelBuilder):
    """PySpark's channel builder over an `Endpoint`: private authorities, mutual TLS and headers included."""

    def __init__(self, endpoint: Endpoint, *, session_id: str, user_agent: str) -> None:
        params = {self.PARAM_SESSION_ID: session_id, self.PARAM_USER_AGENT: user_agent, **endpoint.headers}
        if endpoint.user_id:
            params[self.PARAM_USER_ID] = endpoint.user_id
        super().__init__(params=params)
        self._endpoint = endpoint
        for option, value in _KEEPALIVE.items():
            self.setChannelOption(option, value)

    @property
    def host(self) -> str:
        return self._endpoint.host

    def toChannel(self) -> grpc.Channel:
        credentials = _credentials(self._endpoint)
        if credentials is None:
            return self._insecure_channel(self._endpoint.target)
        return self._secure_channel(self._endpoint.target, credentials)


def _credentials(endpoint: Endpoint) -> grpc.ChannelCredentials | None:
    if endpoint.secure:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=read_pem(endpoint.ca_certificate, "ca_certificate"),
            private_key=read_pem(endpoint.client_key, "client_key"),
            certificate_chain=read_pem(endpoint.client_certificate, "client_certificate"),
        )
    elif endpoint.token:
        credentials = grpc.local_channel_credentials()
    else:
        return None
    if endpoint.token:
        token = grpc.access_token_call_credentials(endpoint.token)
        credentials = grpc.composite_channel_credentials(credentials, token)
    return credentials


class OperationInterceptor(grpc.UnaryStreamClientInterceptor, grpc.UnaryUnaryClientInterceptor):
    """Tags each operation, from whichever thread it comes, and shows what passes to an observer."""

    def __init__(self, observer: Observer, *, tag: str | None = None) -> None:
        self._observer = observer
        self._tag = tag

    def __deepcopy__(self, memo: dict[int, Any]) -> OperationInterceptor:
        # PySpark copies the builder for a cloned session, whose operations belong to the same observer.
        return self

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each stream: `ExecutePlan`, and `ReattachExecute` after an interruption."""
        if isinstance(request, pb2.ExecutePlanRequest) and self._tag and self._tag not in request.tags:
            request.tags.append(self._tag)
        stream = continuation(client_call_details, self._observer.sends(request))
        return _ObservedStream(stream, request, self._observer)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each plain call: `AnalyzePlan` (which also caches), `Config`, ..."""
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
