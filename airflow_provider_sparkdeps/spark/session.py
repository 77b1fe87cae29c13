"""A Spark Connect session with bounds: opened, tagged, watched, interrupted, and closed within seconds."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakKeyDictionary

from airflow_provider_sparkdeps import __version__
from airflow_provider_sparkdeps.errors import ConnectError, SessionError, WishError
from airflow_provider_sparkdeps.spark.accumulators import (
    Accumulator,
    Ledger,
    Number,
    check_initial_values,
    check_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc
    from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.spark.endpoint import Endpoint

log = logging.getLogger(__name__)

OLDEST_SERVER = (4, 0)
CLOSE_TIMEOUT = 5.0
_INTERRUPT_TIMEOUT = 3.0
_PROGRESS_INTERVAL = 10.0
_USER_AGENT = f"airflow-provider-sparkdeps/{__version__}"
_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """A session of its own on a Spark Connect server, as a context manager.

    ```python
    with Session(Endpoint(host="spark.example.org")) as session:
        session.spark.range(3).count()
    ```

    :param endpoint: the server.
    :param tag: put on all of the session's operations, so that people find them; no comma.
    :param report: takes the lines about Spark's progress; the module's log by default.
    :raises ConnectError: on entry, if the server can't be reached within the endpoint's `request_timeout`, refuses
        us, or is none that we can talk to.
    """

    def __init__(
        self, endpoint: Endpoint, *, tag: str | None = None, report: Callable[[str], None] | None = None
    ) -> None:
        if tag is not None and (not tag or "," in tag):
            raise WishError(f"tag {tag!r} is empty or holds a comma, which Spark splits tags at: write another")
        self.endpoint = endpoint
        self.id = str(uuid.uuid4())
        self._tag = tag
        self._report = report or log.info
        self._ledger = Ledger()
        self._accumulators: dict[str, Accumulator] = {}
        self._control: _Control | None = None
        self._spark: SparkSession | None = None

    @classmethod
    def of(cls, spark: Any) -> Session:
        """Return the `Session` that a SparkSession belongs to.

        :raises SessionError: it was not opened by this package.
        """
        try:
            return _sessions[spark]
        except (KeyError, TypeError):
            raise SessionError(
                f"{type(spark).__name__} was not opened by this package: take the session from "
                "`SparkConnectHook.session()`, from the operator's `spark`, or from `Session`"
            ) from None

    @property
    def spark(self) -> SparkSession:
        """The session, as PySpark's users know it.

        :raises SessionError: it is not open.
        """
        if self._spark is None:
            raise SessionError("the session is not open: use it inside its `with` block")
        return self._spark

    def __enter__(self) -> Self:
        # Column functions of the full pyspark look for a JVM unless they are told.
        os.environ.setdefault("SPARK_CONNECT_MODE_ENABLED", "1")
        self._control = _Control(self.endpoint, self.id)
        try:
            self._control.await_server()
            self._spark = self._open()
        except BaseException:
            self.close()
            raise
        _sessions[self._spark] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def accumulator(self, name: str, initial: Number = 0) -> Accumulator:
        """Return a new accumulator of this session.

        :param name: an identifier; the accumulator's key in `accumulator_values`.
        :param initial: an int or a float; its type is that of the sum.
        :raises WishError: the name is no identifier or is taken, or the value is no number.
        """
        if check_name(name) in self._accumulators:
            raise WishError(f"this session has an accumulator {name!r} already: use it, or choose another name")
        initial = check_initial_values({name: initial})[name]
        self._accumulators[name] = accumulator = Accumulator(name, initial, self._ledger)
        return accumulator

    @property
    def accumulator_values(self) -> dict[str, Number]:
        """The accumulators' values by name, as plain data."""
        return {name: accumulator.value for name, accumulator in self._accumulators.items()}

    def interrupt(self) -> None:
        """Have the server interrupt all that runs in this session; waits 3 seconds at most and never raises."""
        if self._control:
            self._control.interrupt()

    def close(self) -> None:
        """Release the session on the server and forget it here; takes 5 seconds at most, and never raises."""
        control, self._control = self._control, None
        spark, self._spark = self._spark, None
        if control is None:
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT
        control.release(timeout=CLOSE_TIMEOUT / 2)
        if spark is not None:
            # A daemon thread, since with the server gone PySpark may wait and retry, here and at exit.
            stopping = threading.Thread(target=_stop, args=(spark,), name="sparkdeps-close", daemon=True)
            stopping.start()
            stopping.join(max(0.5, deadline - time.monotonic()))
        control.close()

    def _open(self) -> SparkSession:
        from pyspark.errors import PySparkException
        from pyspark.sql.connect.session import SparkSession

        from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder, OperationInterceptor, TimedRetries

        builder = EndpointChannelBuilder(self.endpoint, session_id=self.id, user_agent=_USER_AGENT)
        builder.add_interceptor(OperationInterceptor(self._ledger, tag=self._tag))
        # PySpark asks for its default builder here, and needs no more of it than the base class has.
        spark = SparkSession.builder.channelBuilder(builder).create()  # type: ignore[arg-type]
        spark.client.set_retry_policies([TimedRetries(self.endpoint)])
        spark.registerProgressHandler(_Progress(self._report))  # type: ignore[arg-type]
        self._spark = spark
        for key, value in self.endpoint.session_conf.items():
            try:
                spark.conf.set(key, value)
            except PySparkException as error:
                raise SessionError(
                    f"the server does not take {key}={value!r} from the connection's session conf: "
                    f"{_first_line(error)}. Mend it there, or take it out."
                ) from None
        return spark


def _stop(spark: SparkSession) -> None:
    # The session has been released already; what PySpark still has under way must not be tried again.
    spark.release_session_on_close = False
    spark.client.set_retry_policies([])
    spark.client._channel.close()
    spark.stop()


class _Control:
    """A channel of our own to the session, whose calls have short deadlines and no retries."""

    def __init__(self, endpoint: Endpoint, session_id: str) -> None:
        from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub

        from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder

        self._endpoint = endpoint
        self._session_id = session_id
        builder = EndpointChannelBuilder(endpoint, session_id=session_id, user_agent=_USER_AGENT)
        self._user_id = builder.userId
        self._metadata = tuple(builder.metadata())
        self._channel: grpc.Channel = builder.toChannel()
        self._stub: SparkConnectServiceStub = SparkConnectServiceStub(self._channel)

    def await_server(self, *, patient: bool = True) -> str:
        """Return the server's Spark version.

        :param patient: go on trying until the endpoint's `request_timeout` while nobody answers.
        :raises ConnectError: it could not be had; the message says what is wrong in a sentence.
        """
        import grpc

        from airflow_provider_sparkdeps.spark.faults import explain, may_pass, more_telling

        deadline = time.monotonic() + self._endpoint.request_timeout
        wait = 0.2
        failure: grpc.RpcError | None = None
        while True:
            try:
                version = self._version(max(0.1, deadline - time.monotonic()))
            except grpc.RpcError as error:
                failure = more_telling(failure, error)
                if not patient or not may_pass(error) or time.monotonic() + wait > deadline:
                    raise ConnectError(explain(failure, self._endpoint)) from None
                time.sleep(wait)
                wait = min(wait * 2, 5.0)
            else:
                break
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
            raise ConnectError(
                f"{self._endpoint.target} runs Spark {version}; 4.0 or later is needed for session artifacts and "
                "accumulators: upgrade the server, or connect to another"
            )
        return version

    def interrupt(self) -> None:
        import pyspark.sql.connect.proto as pb2

        kind = pb2.InterruptRequest.InterruptType.INTERRUPT_TYPE_ALL
        self._try(self._stub.Interrupt, self._fill(pb2.InterruptRequest(interrupt_type=kind)), _INTERRUPT_TIMEOUT)

    def release(self, timeout: float) -> None:
        import pyspark.sql.connect.proto as pb2

        self._try(self._stub.ReleaseSession, self._fill(pb2.ReleaseSessionRequest()), timeout)

    def close(self) -> None:
        self._channel.close()

    def _version(self, timeout: float) -> str:
        import pyspark.sql.connect.proto as pb2

        request = self._fill(pb2.AnalyzePlanRequest(spark_version=pb2.AnalyzePlanRequest.SparkVersion()))
        response = self._stub.AnalyzePlan(request, metadata=self._metadata, timeout=timeout)
        return str(response.spark_version.version)

    def _fill(self, request: Any) -> Any:
        request.session_id = self._session_id
        request.client_type = _USER_AGENT
        if self._user_id:
            request.user_context.user_id = self._user_id
        return request

    def _try(self, call: Callable[..., object], request: Any, timeout: float) -> None:
        import grpc

        try:
            call(request, metadata=self._metadata, timeout=timeout)
        except (grpc.RpcError, ValueError) as error:
            # Best effort by contract: the server may be gone, and drops the session by itself after a while.
            log.debug("%s was not answered: %s", type(request).__name__, error)


class _Progress:
    """Reports what Spark is doing, at most every few seconds for each operation, and each operation's end."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reported: dict[str | None, float] = {}

    def __call__(self, stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Called by PySpark at each progress message, and once when the operation has ended."""
        now = time.monotonic()
        last = self._reported.setdefault(operation_id, now)
        stages = list(stages or ())
        if done:
            del self._reported[operation_id]
        elif now - last < _PROGRESS_INTERVAL:
            return
        else:
            self._reported[operation_id] = now
        if stages:
            tasks = sum(stage.num_tasks for stage in stages)
            completed = sum(stage.num_completed_tasks for stage in stages)
            read = sum(stage.num_bytes_read for stage in stages) / 1e6
            self._report(
                f"Spark {'has ended' if done else 'is running'} operation {(operation_id or '?')[:8]}: "
                f"{sum(stage.done for stage in stages)}/{len(stages)} stages, {completed}/{tasks} tasks, "
                f"{inflight_tasks} running, {read:.1f} MB read"
            )


def check_server(endpoint: Endpoint) -> str:
    """Return the Spark version of the server, without opening a session that stays.

    :raises ConnectError: it can't be reached, refuses us, or is none that we can talk to; tried once.
    """
    control = _Control(endpoint, str(uuid.uuid4()))
    try:
        version = control.await_server(patient=False)
        control.release(timeout=CLOSE_TIMEOUT / 2)
    finally:
        control.close()
    return version


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
