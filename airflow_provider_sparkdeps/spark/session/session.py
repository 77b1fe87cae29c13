"""A Spark Connect session: opened or joined, tagged, interrupted, and closed within seconds."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError, SessionLostError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.accumulators.collector import UpdateCollector
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_name, to_kind
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam
from airflow_provider_sparkdeps.spark.pyspark_compat import activate, stop_released_session
from airflow_provider_sparkdeps.spark.rpc import USER_AGENT, RpcClient
from airflow_provider_sparkdeps.spark.session.heartbeat import Heartbeat
from airflow_provider_sparkdeps.spark.session.progress import ProgressLogger
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession
from airflow_provider_sparkdeps.spark.session.sharing import explain_loss, open_shared
from airflow_provider_sparkdeps.utils.redaction import redact
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.archives import Archive
    from airflow_provider_sparkdeps.spark.endpoint import Endpoint

log = logging.getLogger(__name__)

# Seconds. Airflow kills a task 5 s after it has asked it to stop.
_CLOSE_TIMEOUT = 5.0


class Session:
    """A session on a Spark Connect server, as a context manager.

    .. code-block:: python

        with Session(Endpoint(host="spark.example.org")) as session:
            session.spark.range(3).count()

    :param endpoint: the server.
    :param tag: added to all operations of the session, so that they can be found in Spark's UI; without commas.
    :param on_progress: called with each line about Spark's progress. By default, the line is logged.
    :param shared: a session to join instead of opening one. It keeps its settings and its environment, and stays open
        when the block ends. Only operations that were started through this object are interrupted, when the block
        ends or before.
    :raises SessionLostError: on entry, if the shared session was closed, has expired, or was lost with its server; at
        the end of the block, if that happened inside.
    :raises SessionError: on entry, if the shared session belongs to another server or user, has another Python, or
        another environment has been attached to it; if the server rejects a setting.
    :raises ConnectError: on entry, if the server cannot be reached within the endpoint's `request_timeout`, rejects
        the credentials, or is not a supported server.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        tag: str | None = None,
        on_progress: Callable[[str], None] | None = None,
        shared: SharedSession | None = None,
    ) -> None:
        if tag is not None and (not tag or "," in tag):
            raise InvalidArgumentError(
                f"tag={tag!r} is empty or contains a comma, which Spark uses to separate tags. Choose another tag."
            )
        self.endpoint = endpoint
        self.id = shared.id if shared else str(uuid.uuid4())
        self._joined = shared
        # Other tasks in a shared session may have the same tag, for example the mapped instances of a task.
        self._unique_tag = f"sparkdeps-{uuid.uuid4()}" if shared else None
        self._tags = tuple(each for each in (tag, self._unique_tag) if each)
        self._is_shared = shared is not None
        self._on_progress = on_progress or log.info
        self._collector = UpdateCollector(self._explain)
        self._accumulators: dict[str, Accumulator] = {}
        self._heartbeat: Heartbeat | None = None
        self._cleanups: list[Callable[[], object]] = []
        self._rpc: RpcClient | None = None
        self._spark: SparkSession | None = None
        self._deactivate: Callable[[], None] = lambda: None

    @property
    def spark(self) -> SparkSession:
        """The session as PySpark's SparkSession.

        :raises SessionError: if the session is not open.
        """
        if self._spark is None:
            raise _not_open()
        return self._spark

    @property
    def rpc(self) -> RpcClient:
        """A client for short calls about this session and others, on a separate channel.

        :raises SessionError: if the session is not open.
        """
        if self._rpc is None:
            raise _not_open()
        return self._rpc

    @property
    def is_open(self) -> bool:
        """Whether the session can be used now."""
        return self._spark is not None

    @property
    def is_shared(self) -> bool:
        """Whether other processes use the session as well, or may use it."""
        return self._is_shared

    def __enter__(self) -> Self:
        # Column functions of the full pyspark look for a JVM without it.
        os.environ.setdefault("SPARK_CONNECT_MODE_ENABLED", "1")
        self._rpc = RpcClient(self.endpoint, self.id)
        try:
            if self._joined is None:
                self._rpc.wait_for(self._rpc.server_version)
                self._set_conf(self._connect())
            else:
                open_shared(self._joined, self.endpoint, self._rpc, connect=self._connect)
                for session_id in self._joined.kept_alive:
                    self.keep_alive(session_id)
        except BaseException:
            self._unique_tag = None
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loss = explain_loss(error, self._joined, self._rpc) if self._joined and self._rpc else None
        if loss:
            # An interrupt in a session that does not exist would create a new one with its id.
            self._unique_tag = None
        self.close()
        if loss:
            raise SessionLostError(loss) from error

    def share(self, archive: Archive | None = None) -> SharedSession:
        """Let other tasks join this session. It then stays open until `close_shared` or until it expires.

        :param archive: the attached archive; None for the cluster's own Python.
        :raises SessionError: if the session has accumulators, or is itself a joined session.
        """
        if self._joined or self._accumulators:
            raise SessionError(
                "A session with accumulators and a joined session cannot be shared. Open another session to share."
            )
        shared = SharedSession(
            id=self.id,
            server_side_id=self.rpc.server_side_id(self.id),
            target=self.endpoint.target,
            user_id=self.rpc.user_id,
            interpreter=self.spark.conf.get(conf.PYTHON, "") or "",
            environment_key=archive.key if archive else None,
            environment_sha256=archive.sha256 if archive else None,
            python=archive.python_minor if archive else None,
            kept_alive=self._heartbeat.ids if self._heartbeat else (),
        )
        self._is_shared = True
        return shared

    def accumulator(self, name: str, initial: Any = 0, param: Any = None) -> Accumulator:
        """Create an accumulator of this session.

        :param name: an identifier; the accumulator's key in `accumulator_values`.
        :param initial: a number, whose type is that of the sum; a kind, for example `Max()`; with `param` any supported
            value.
        :param param: PySpark's `AccumulatorParam` or a similar object: how terms are added.
        :raises InvalidArgumentError: if the name is not an identifier or is taken, or the value is not supported.
        :raises SessionError: if the session is shared.
        """
        if self._is_shared:
            raise SessionError(
                "Accumulators are not supported in shared sessions: Spark may deliver updates to another process. Use "
                "a session of its own for this task."
            )
        if check_name(name) in self._accumulators:
            raise InvalidArgumentError(
                f"This session already has an accumulator {name!r}. Use it, or choose another name."
            )
        kind = to_kind(name, initial) if param is None else WithParam(param, initial)
        self._accumulators[name] = accumulator = Accumulator(name, kind, self._collector)
        return accumulator

    @property
    def accumulator_values(self) -> dict[str, Any]:
        """The accumulators' values by name, JSON-compatible; other tasks can start from them."""
        return {name: accumulator.to_xcom() for name, accumulator in self._accumulators.items()}

    def _explain(self, relation: Any) -> str:
        return self._rpc.explain(relation) if self._rpc else ""

    def interrupt(self) -> None:
        """Interrupt everything that runs in this session; in a joined session, what was started through this object.

        Takes at most 3 seconds and never raises.
        """
        if self._rpc:
            self._rpc.interrupt(self._unique_tag)

    def keep_alive(self, session_id: str) -> None:
        """Keep another session of this server and user from expiring while this one is open or joined."""
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self.rpc)
            self.add_cleanup(self._heartbeat.stop)
        self._heartbeat.add(session_id)

    def add_cleanup(self, function: Callable[[], object]) -> None:
        """Register a function that `close` calls while the session is still alive; the last one is called first.

        All functions together get 2 seconds. Exceptions are logged.
        """
        self._cleanups.append(function)

    def close(self) -> None:
        """Release the session on the server, unless it is shared. Takes at most 5 seconds and never raises."""
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        cleanups, self._cleanups = self._cleanups, []
        if cleanups:
            _run_bounded("sparkdeps-cleanup", lambda: _call_all(cleanups), timeout=_CLOSE_TIMEOUT * 0.4)
        rpc, self._rpc = self._rpc, None
        spark, self._spark = self._spark, None
        if rpc is None:
            return
        if self._unique_tag:
            rpc.interrupt(self._unique_tag, timeout=_CLOSE_TIMEOUT * 0.4)
        elif not self._is_shared:
            rpc.release(timeout=_CLOSE_TIMEOUT * 0.4)
        self._deactivate()
        if spark is not None:
            left = max(0.5, deadline - time.monotonic())
            _run_bounded("sparkdeps-close", lambda: stop_released_session(spark), timeout=left)
        rpc.close()

    def _connect(self) -> SparkSession:
        """Create the SparkSession. The server is not called yet."""
        from pyspark.sql.connect.session import SparkSession

        from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder, retry_policy
        from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
        from airflow_provider_sparkdeps.spark.driver_python.functions import DriverPython
        from airflow_provider_sparkdeps.spark.interceptor import OperationInterceptor

        builder = EndpointChannelBuilder(self.endpoint, session_id=self.id, user_agent=USER_AGENT)
        size_limit = RequestSizeLimit(self.endpoint.session_conf)
        builder.add_interceptor(
            OperationInterceptor(
                self._collector,
                tags=self._tags,
                size_limit=size_limit,
                driver_python=DriverPython(
                    lambda: self.spark,
                    lambda session_id: self.rpc.get_conf(session_id, [conf.PYTHON]).get(conf.PYTHON, ""),
                ),
            )
        )
        # Annotated with PySpark's default builder, but its base class is enough.
        self._spark = spark = SparkSession.builder.channelBuilder(builder).create()  # type: ignore[arg-type]
        self._deactivate = activate(spark)
        spark.client.set_retry_policies([retry_policy(self.endpoint)])
        spark.registerProgressHandler(ProgressLogger(self._on_progress))  # type: ignore[arg-type]
        return spark

    def _set_conf(self, spark: SparkSession) -> None:
        from pyspark.errors import PySparkException

        for key, value in self.endpoint.session_conf.items():
            try:
                spark.conf.set(key, value)
            except PySparkException as error:
                # The value may be a secret, and Spark repeats it.
                reason = first_line(redact(str(error), [value]))
                raise SessionError(
                    f"The server rejected the session setting {key}: {reason}. Fix or remove it in the connection."
                ) from None


def _not_open() -> SessionError:
    return SessionError("The session is not open. Use it inside its `with` block.")


def _run_bounded(name: str, work: Callable[[], object], *, timeout: float) -> None:
    # A daemon thread, since PySpark may wait and retry if the server has gone, here and at exit.
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(timeout)


def _call_all(functions: list[Callable[[], object]]) -> None:
    for function in reversed(functions):
        try:
            function()
        except Exception:
            log.warning("Could not clean up after a session.", exc_info=True)
