"""A gRPC interceptor that adds tags, checks sizes and collects accumulator updates on every request of a session.

Imports grpc and pyspark, so import it inside functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grpc
import pyspark.sql.connect.proto as pb2

from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
from airflow_provider_sparkdeps.spark.driver_python.functions import DriverPython


class RequestListener(Protocol):
    """What an interceptor calls for the requests and responses of a session."""

    def on_request(self, request: Any) -> Any:
        """Return the request to send instead."""

    def on_response(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None: ...
    def on_success(self, operation_id: str) -> None: ...


class OperationInterceptor(grpc.UnaryStreamClientInterceptor, grpc.UnaryUnaryClientInterceptor):
    """Tags operations of all threads, limits the size of their functions, and notifies a listener.

    :param listener: called for each request, response and succeeded operation.
    :param tags: added to each operation.
    :param size_limit: rejects requests with too large functions before they are sent.
    :param driver_python: gives functions that Spark runs on the driver the packages of the environment.
    """

    def __init__(
        self,
        listener: RequestListener,
        *,
        tags: Sequence[str],
        size_limit: RequestSizeLimit,
        driver_python: DriverPython,
    ) -> None:
        self._listener = listener
        self._driver_python = driver_python
        self._tags = tags
        self._size_limit = size_limit

    def __deepcopy__(self, memo: dict[int, Any]) -> OperationInterceptor:
        # PySpark copies the builder for a cloned session. Its operations belong to the same listener.
        return self

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each stream: `ExecutePlan`, and `ReattachExecute` after an interruption."""
        self._size_limit.check(request)
        if isinstance(request, pb2.ExecutePlanRequest):
            request.tags.extend(tag for tag in self._tags if tag not in request.tags)
        stream = continuation(client_call_details, self._changed(request))
        return _ObservedStream(stream, request, self._listener)

    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: grpc.ClientCallDetails, request: Any
    ) -> Any:
        """Called by gRPC for each other call: `AnalyzePlan` (which also caches), `Config`, ..."""
        self._size_limit.check(request)
        return continuation(client_call_details, self._changed(request))

    def _changed(self, request: Any) -> Any:
        return self._listener.on_request(self._driver_python.wrap(request))


class _ObservedStream:
    """A response stream that passes each response to a listener; everything else is delegated to the stream."""

    def __init__(self, stream: Any, request: Any, listener: RequestListener) -> None:
        self._stream = stream
        self._listener = listener
        self._operation_id: str = request.operation_id
        options = getattr(request, "request_options", ())
        # A reattachable stream may end at any time; a separate response says that the operation is complete.
        self._end_means_success = isinstance(request, pb2.ExecutePlanRequest) and not any(
            option.reattach_options.reattachable for option in options
        )

    def __iter__(self) -> Iterator[pb2.ExecutePlanResponse]:
        return self

    def __next__(self) -> pb2.ExecutePlanResponse:
        try:
            response: pb2.ExecutePlanResponse = next(self._stream)
        except StopIteration:
            if self._end_means_success:
                self._listener.on_success(self._operation_id)
            raise
        self._operation_id = response.operation_id or self._operation_id
        self._listener.on_response(self._operation_id, response)
        if response.HasField("result_complete"):
            self._listener.on_success(self._operation_id)
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
