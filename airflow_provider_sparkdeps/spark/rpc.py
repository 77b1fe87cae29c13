"""A client for short calls to a Spark Connect server, on a separate channel and without automatic retries."""

from __future__ import annotations

import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_sparkdeps.exceptions import ConnectError, SessionError

if TYPE_CHECKING:
    import grpc
    from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

    from airflow_provider_sparkdeps.spark.endpoint import Endpoint

T = TypeVar("T")

log = logging.getLogger(__name__)

USER_AGENT = f"airflow-provider-sparkdeps/{metadata.version('airflow-provider-sparkdeps')}"
_MIN_SERVER_VERSION = (4, 0)
# Seconds. Airflow kills a task 5 s after it has asked it to stop.
_CALL_TIMEOUT = 3.0
# Seconds. Spark lists files when it makes a plan.
_PLAN_TIMEOUT = 60.0
# Bytes. PySpark's 32 KB take twice as long; gRPC's limit is 4 MB per message.
_CHUNK = 1 << 20
# An upload may take so many seconds, and more for each MB at so many MB/s.
_UPLOAD_TIMEOUT = 60.0
_MIN_UPLOAD_SPEED = 0.5


class RpcClient:
    """Calls about one or several sessions of a user, with short timeouts.

    :param endpoint: the server.
    :param session_id: the session of calls that do not name one.
    """

    def __init__(self, endpoint: Endpoint, session_id: str) -> None:
        from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

        from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder

        self._endpoint = endpoint
        self._session_id = session_id
        builder = EndpointChannelBuilder(endpoint, session_id=session_id, user_agent=USER_AGENT)
        self.user_id = builder.userId or ""
        self._metadata = tuple(builder.metadata())
        self._channel: grpc.Channel = builder.toChannel()
        self._stub: SparkConnectServiceStub = SparkConnectServiceStub(self._channel)

    def wait_for(
        self, call: Callable[[float], T], *, give_up_if: Callable[[grpc.RpcError], bool] = lambda error: False
    ) -> T:
        """Return what a call returns; retry until the endpoint's `request_timeout` while nobody answers.

        :param call: takes its timeout in seconds.
        :param give_up_if: errors for which this is true are raised as they are.
        :raises ConnectError: if the call failed.
        """
        import grpc

        from airflow_provider_sparkdeps.spark.grpc_errors import connect_error, is_transient, more_specific

        deadline = time.monotonic() + self._endpoint.request_timeout
        wait = 0.2
        failure: grpc.RpcError | None = None
        while True:
            try:
                return call(max(0.1, deadline - time.monotonic()))
            except grpc.RpcError as error:
                if give_up_if(error):
                    raise
                failure = more_specific(failure, error)
                if not is_transient(error) or time.monotonic() + wait > deadline:
                    raise connect_error(failure, self._endpoint) from None
                time.sleep(wait)
                wait = min(wait * 2, 5.0)

    def server_version(self, timeout: float = _CALL_TIMEOUT) -> str:
        """Return the server's Spark version.

        :raises ConnectError: if the server is too old.
        :raises grpc.RpcError: if the call failed.
        """
        import pyspark.sql.connect.proto as pb2

        request = self._fill(pb2.AnalyzePlanRequest(spark_version=pb2.AnalyzePlanRequest.SparkVersion()))
        response = self._stub.AnalyzePlan(request, metadata=self._metadata, timeout=timeout)
        version = str(response.spark_version.version)
        if tuple(int(part) for part in version.split(".")[:2]) < _MIN_SERVER_VERSION:
            raise ConnectError(
                f"{self._endpoint.target} runs Spark {version}, but session artifacts and accumulators require 4.0 or "
                "later. Upgrade the server, or connect to another one."
            )
        return version

    def server_side_id(self, session_id: str, timeout: float = _CALL_TIMEOUT) -> str:
        """Return the server's own id of a session. This also keeps the session from expiring.

        Unlike most calls, it does not create a session if there is none.

        :raises grpc.RpcError: if there is no such session (`INVALID_HANDLE`), or the call failed.
        """
        import pyspark.sql.connect.proto as pb2

        release_all = pb2.ReleaseExecuteRequest.ReleaseAll()
        request = pb2.ReleaseExecuteRequest(operation_id=str(uuid.uuid4()), release_all=release_all)
        response = self._stub.ReleaseExecute(self._fill(request, session_id), metadata=self._metadata, timeout=timeout)
        return str(response.server_side_session_id)

    def explain(self, relation: Any) -> str:
        """Return how Spark would run a query, as `DataFrame.explain` prints it; an empty string if it does not say."""
        import pyspark.sql.connect.proto as pb2

        request = self._fill(pb2.AnalyzePlanRequest())
        request.explain.explain_mode = pb2.AnalyzePlanRequest.Explain.EXPLAIN_MODE_SIMPLE
        try:
            # Parsing it again would fail for deep plans.
            request.explain.plan.root.CopyFrom(relation)
            response = self._stub.AnalyzePlan(request, metadata=self._metadata, timeout=_PLAN_TIMEOUT)
        except Exception as error:  # noqa: BLE001 (the query itself will say what is wrong with it)
            log.debug("Spark did not explain a query: %s", error)
            return ""
        return str(response.explain.explain_string)

    def is_alive(self, session_id: str) -> bool:
        """Keep a session from expiring, and return whether it exists. Takes at most 3 seconds and never raises."""
        import grpc

        try:
            self.server_side_id(session_id)
        except (grpc.RpcError, ValueError) as error:
            log.debug("Session %s does not respond: %s", session_id, error)
            return False
        return True

    def get_conf(self, session_id: str, names: Sequence[str]) -> dict[str, str]:
        """Return those settings of a session that are set. Creates the session if there is none.

        :raises grpc.RpcError: if the session was closed (`INVALID_HANDLE`), or the call failed.
        """
        import pyspark.sql.connect.proto as pb2

        # Unlike `Get`, this does not fail for names that are not set.
        option = pb2.ConfigRequest.GetOption(keys=names)
        pairs = self._config(session_id, pb2.ConfigRequest.Operation(get_option=option)).pairs
        return {pair.key: pair.value for pair in pairs if pair.HasField("value")}

    def set_conf(self, session_id: str, values: Mapping[str, str]) -> None:
        """Change settings of a session. Creates the session if there is none.

        :raises grpc.RpcError: if the session was closed (`INVALID_HANDLE`), or the call failed.
        """
        import pyspark.sql.connect.proto as pb2

        pairs = [pb2.KeyValue(key=key, value=value) for key, value in values.items()]
        self._config(session_id, pb2.ConfigRequest.Operation(set=pb2.ConfigRequest.Set(pairs=pairs)))

    def upload_file(self, session_id: str, name: str, file: Path, *, cancel_on: Future[None] | None = None) -> None:
        """Upload a file to a session, as `addArtifacts(file=True)` does, and check the server's checksums.

        :param cancel_on: the upload is cancelled when this fails.
        :raises grpc.RpcError: if the upload failed.
        :raises grpc.FutureCancelledError: if `cancel_on` failed.
        :raises ConnectError: if the connection is slower than 0.5 MB/s.
        :raises SessionError: if the file was damaged on its way.
        """
        import grpc
        import pyspark.sql.connect.proto as pb2

        size = file.stat().st_size

        def requests() -> Iterator[pb2.AddArtifactsRequest]:
            messages = pb2.AddArtifactsRequest
            with file.open("rb") as content:
                for number in range(max(1, -(-size // _CHUNK))):
                    data = content.read(_CHUNK)
                    chunk = messages.ArtifactChunk(data=data, crc=zlib.crc32(data))
                    request = self._fill(messages(), session_id)
                    if size <= _CHUNK:
                        whole = messages.SingleChunkArtifact(name=f"files/{name}", data=chunk)
                        request.batch.CopyFrom(messages.Batch(artifacts=[whole]))
                    elif number == 0:
                        first = messages.BeginChunkedArtifact(name=f"files/{name}", initial_chunk=chunk)
                        first.total_bytes, first.num_chunks = size, -(-size // _CHUNK)
                        request.begin_chunk.CopyFrom(first)
                    else:
                        request.chunk.CopyFrom(chunk)
                    yield request

        timeout = _UPLOAD_TIMEOUT + size / 1e6 / _MIN_UPLOAD_SPEED
        call = self._stub.AddArtifacts.future(requests(), metadata=self._metadata, timeout=timeout)
        if cancel_on:
            cancel_on.add_done_callback(lambda done: call.cancel() if done.exception() else None)
        try:
            response = call.result()
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            raise ConnectError(
                f"Could not upload {name} ({size / 1e6:.1f} MB) to {self._endpoint.target} within {timeout:.0f} s. Run "
                "the task again, on a worker with a faster connection to the server. For archives, the connection's "
                "field delivery can be 'reference': then the cluster reads them from the archive store."
            ) from None
        if not all(artifact.is_crc_successful for artifact in response.artifacts):
            raise SessionError(f"{name} was damaged on its way to {self._endpoint.target}. Run the task again.")

    def interrupt(self, tag: str | None = None, *, timeout: float = _CALL_TIMEOUT) -> None:
        """Interrupt everything in the session, or only operations with a tag. Never raises."""
        import pyspark.sql.connect.proto as pb2

        kinds = pb2.InterruptRequest.InterruptType
        if tag is None:
            request = pb2.InterruptRequest(interrupt_type=kinds.INTERRUPT_TYPE_ALL)
        else:
            request = pb2.InterruptRequest(interrupt_type=kinds.INTERRUPT_TYPE_TAG, operation_tag=tag)
        self._try(self._stub.Interrupt, self._fill(request), timeout)

    def release(self, timeout: float = _CALL_TIMEOUT) -> bool:
        """Close the session on the server; return whether the server responded. Never raises."""
        import pyspark.sql.connect.proto as pb2

        return self._try(self._stub.ReleaseSession, self._fill(pb2.ReleaseSessionRequest()), timeout)

    def close(self) -> None:
        self._channel.close()

    def _config(self, session_id: str, operation: Any) -> Any:
        import pyspark.sql.connect.proto as pb2

        request = self._fill(pb2.ConfigRequest(operation=operation), session_id)
        return self._stub.Config(request, metadata=self._metadata, timeout=_CALL_TIMEOUT)

    def _fill(self, request: Any, session_id: str | None = None) -> Any:
        request.session_id = session_id or self._session_id
        request.client_type = USER_AGENT
        if self.user_id:
            request.user_context.user_id = self.user_id
        return request

    def _try(self, call: Callable[..., object], request: Any, timeout: float) -> bool:
        import grpc

        try:
            call(request, metadata=self._metadata, timeout=timeout)
        except (grpc.RpcError, ValueError) as error:
            # Best effort: the server may have gone. It drops idle sessions after a while.
            log.debug("%s failed: %s", type(request).__name__, error)
            return False
        return True


def check_server(endpoint: Endpoint) -> str:
    """Return the server's Spark version. Tries once, and leaves no session open.

    :raises ConnectError: if the server cannot be reached, rejects the credentials, or is not a supported server.
    """
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import connect_error

    rpc = RpcClient(endpoint, str(uuid.uuid4()))
    try:
        version = rpc.server_version(endpoint.request_timeout)
        rpc.release()
    except grpc.RpcError as error:
        raise connect_error(error, endpoint) from None
    finally:
        rpc.close()
    return version
