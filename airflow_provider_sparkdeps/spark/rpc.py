"""A channel beside a session's own: short calls that open, check, interrupt and release it, and never retry."""

from __future__ import annotations

import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps import __version__
from airflow_provider_sparkdeps.exceptions import ConnectError, SessionError, SessionLostError

if TYPE_CHECKING:
    import grpc
    from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

    from airflow_provider_sparkdeps.spark.endpoint import Endpoint
    from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

log = logging.getLogger(__name__)

OLDEST_SERVER = (4, 0)
USER_AGENT = f"airflow-provider-sparkdeps/{__version__}"
# Seconds. Airflow kills a task 5 s after it has asked it to stop.
CALL_TIMEOUT = 3.0
# Bytes. PySpark sends 32 KB at a time, which takes twice as long; gRPC's own limit is 4 MB a message.
_CHUNK = 1 << 20
# MB/s; what is slower than this is given up.
_SLOWEST = 0.5


class RpcClient:
    """A channel of our own to the session, whose calls have short deadlines and no retries."""

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

    def await_server(self, *, patient: bool = True) -> str:
        """Return the server's Spark version.

        :param patient: go on trying until the endpoint's `request_timeout` while nobody answers.
        :raises ConnectError: it could not be had; the message says what is wrong in a sentence.
        """
        version = self._await(self._version, patient=patient)
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
            raise ConnectError(
                f"{self._endpoint.target} runs Spark {version}; 4.0 or later is needed for session artifacts and "
                "accumulators: upgrade the server, or connect to another"
            )
        return version

    def await_session(self, shared: SharedSession) -> str:
        """Return the server's own id of a shared session; go on trying while nobody answers.

        :raises SessionLostError: the server does not have it any more.
        :raises ConnectError: it could not be asked.
        """
        import grpc

        from airflow_provider_sparkdeps.spark.session.shared_session import is_session_gone

        try:
            return self._await(lambda timeout: self.look(shared.id, timeout), patient=True, passes_on=is_session_gone)
        except grpc.RpcError as error:
            raise SessionLostError(shared.loss_message(str(error))) from None

    def interrupt(self, tag: str | None = None, *, timeout: float = CALL_TIMEOUT) -> None:
        """Have the server interrupt all of the session, or only operations with a tag; never raises."""
        import pyspark.sql.connect.proto as pb2

        kinds = pb2.InterruptRequest.InterruptType
        if tag is None:
            request = pb2.InterruptRequest(interrupt_type=kinds.INTERRUPT_TYPE_ALL)
        else:
            request = pb2.InterruptRequest(interrupt_type=kinds.INTERRUPT_TYPE_TAG, operation_tag=tag)
        self._try(self._stub.Interrupt, self._fill(request), timeout)

    def look(self, session_id: str, timeout: float = CALL_TIMEOUT) -> str:
        """Return the server's own id of a session; this also keeps the session from expiring.

        Unlike most calls, it makes no session of that id where there is none.

        :raises grpc.RpcError: there is none (`INVALID_HANDLE`), or the server could not be asked.
        """
        import pyspark.sql.connect.proto as pb2

        everything = pb2.ReleaseExecuteRequest.ReleaseAll()
        request = self._fill(pb2.ReleaseExecuteRequest(operation_id=str(uuid.uuid4()), release_all=everything))
        request.session_id = session_id
        response = self._stub.ReleaseExecute(request, metadata=self._metadata, timeout=timeout)
        return str(response.server_side_session_id)

    def touch(self, session_id: str, server_side_id: str | None = None) -> bool:
        """Keep a session from expiring; return whether it is alive; takes 3 seconds at most and never raises."""
        import grpc

        try:
            found = self.look(session_id)
        except (grpc.RpcError, ValueError) as error:
            log.debug("Session %s does not answer: %s", session_id, error)
            return False
        return server_side_id is None or server_side_id == found

    def configure(
        self, session_id: str, *, read: Sequence[str] = (), write: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Write confs of a session, then return those that are to be read and are set.

        :raises grpc.RpcError: the session has been closed (`INVALID_HANDLE`), or the server could not be asked.
        """
        import pyspark.sql.connect.proto as pb2

        pairs = [pb2.KeyValue(key=key, value=value) for key, value in (write or {}).items()]
        operations = [pb2.ConfigRequest.Operation(set=pb2.ConfigRequest.Set(pairs=pairs))] if pairs else []
        if read:
            # Unlike `Get`, this has no complaint about keys that are not set.
            option = pb2.ConfigRequest.GetOption(keys=read)
            operations.append(pb2.ConfigRequest.Operation(get_option=option))
        found: dict[str, str] = {}
        for operation in operations:
            request = self._fill(pb2.ConfigRequest(operation=operation))
            request.session_id = session_id
            response = self._stub.Config(request, metadata=self._metadata, timeout=CALL_TIMEOUT)
            found |= {pair.key: pair.value for pair in response.pairs if pair.HasField("value")}
        return found if read else {}

    def add_file(self, session_id: str, name: str, file: Path, *, unless: Future[None] | None = None) -> None:
        """Send a file to a session, as `addArtifacts(file=True)` does, and have the server's checksums looked at.

        :param unless: when this has failed, no more is sent.
        :raises grpc.RpcError: it could not be sent.
        :raises grpc.FutureCancelledError: `unless` has failed.
        :raises SessionError: it was damaged on its way.
        """
        import pyspark.sql.connect.proto as pb2

        size = file.stat().st_size

        def requests() -> Iterator[pb2.AddArtifactsRequest]:
            messages = pb2.AddArtifactsRequest
            with file.open("rb") as content:
                for number in range(max(1, -(-size // _CHUNK))):
                    data = content.read(_CHUNK)
                    chunk = messages.ArtifactChunk(data=data, crc=zlib.crc32(data))
                    request = self._fill(messages())
                    request.session_id = session_id
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

        timeout = 60 + size / 1e6 / _SLOWEST
        call = self._stub.AddArtifacts.future(requests(), metadata=self._metadata, timeout=timeout)
        if unless:
            unless.add_done_callback(lambda done: call.cancel() if done.exception() else None)
        response = call.result()
        if not all(artifact.is_crc_successful for artifact in response.artifacts):
            raise SessionError(f"{name} was damaged on its way to {self._endpoint.target}: run this again")

    def release(self, timeout: float) -> bool:
        """Have the server end the session; return whether it answered; never raises."""
        import pyspark.sql.connect.proto as pb2

        return self._try(self._stub.ReleaseSession, self._fill(pb2.ReleaseSessionRequest()), timeout)

    def close(self) -> None:
        self._channel.close()

    def _await(
        self,
        call: Callable[[float], str],
        *,
        patient: bool,
        passes_on: Callable[[grpc.RpcError], bool] = lambda _: False,
    ) -> str:
        import grpc

        from airflow_provider_sparkdeps.spark.grpc_errors import connect_error, is_transient, more_specific

        deadline = time.monotonic() + self._endpoint.request_timeout
        wait = 0.2
        failure: grpc.RpcError | None = None
        while True:
            try:
                return call(max(0.1, deadline - time.monotonic()))
            except grpc.RpcError as error:
                if passes_on(error):
                    raise
                failure = more_specific(failure, error)
                if not patient or not is_transient(error) or time.monotonic() + wait > deadline:
                    raise connect_error(failure, self._endpoint) from None
                time.sleep(wait)
                wait = min(wait * 2, 5.0)

    def _version(self, timeout: float) -> str:
        import pyspark.sql.connect.proto as pb2

        request = self._fill(pb2.AnalyzePlanRequest(spark_version=pb2.AnalyzePlanRequest.SparkVersion()))
        response = self._stub.AnalyzePlan(request, metadata=self._metadata, timeout=timeout)
        return str(response.spark_version.version)

    def _fill(self, request: Any) -> Any:
        request.session_id = self._session_id
        request.client_type = USER_AGENT
        if self.user_id:
            request.user_context.user_id = self.user_id
        return request

    def _try(self, call: Callable[..., object], request: Any, timeout: float) -> bool:
        import grpc

        try:
            call(request, metadata=self._metadata, timeout=timeout)
        except (grpc.RpcError, ValueError) as error:
            # Best effort by contract: the server may be gone, and drops the session by itself after a while.
            log.debug("%s was not answered: %s", type(request).__name__, error)
            return False
        return True


def check_server(endpoint: Endpoint) -> str:
    """Return the Spark version of the server, without opening a session that stays.

    :raises ConnectError: it can't be reached, refuses us, or is none that we can talk to; tried once.
    """
    control = RpcClient(endpoint, str(uuid.uuid4()))
    try:
        version = control.await_server(patient=False)
        control.release(timeout=CALL_TIMEOUT)
    finally:
        control.close()
    return version
