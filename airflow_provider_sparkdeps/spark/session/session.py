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

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError, SessionLostError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.accumulators.collector import UpdateCollector
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_name, to_kind
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam
from airflow_provider_sparkdeps.spark.rpc import USER_AGENT, RpcClient
from airflow_provider_sparkdeps.spark.session.heartbeat import Heartbeat
from airflow_provider_sparkdeps.spark.session.progress import Progress
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession, explain_loss
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.archives import Archive
    from airflow_provider_sparkdeps.spark.endpoint import Endpoint

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0


class Session:
    """A session of its own on a Spark Connect server, as a context manager.

    ```python
    with Session(Endpoint(host="spark.example.org")) as session:
        session.spark.range(3).count()
    ```

    :param endpoint: the server.
    :param tag: put on all of the session's operations, so that people find them; no comma.
    :param on_progress: takes the lines about Spark's progress; the module's log by default.
    :param shared: a session to join instead of opening one. It keeps its settings and its environment, and stays open
        when the block ends. Only what was started through this object is interrupted, when the block ends
        or before.
    :raises SessionLostError: on entry, if the session to join was closed, has expired, or went with its server; from
        the block, if that comes out there.
    :raises SessionError: on entry, if the session to join is another server's or user's, is for another Python, or had
        its environment switched.
    :raises ConnectError: on entry, if the server can't be reached within the endpoint's `request_timeout`, refuses
        us, or is none that we can talk to.
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
                f"tag {tag!r} is empty or holds a comma, which Spark splits tags at: write another"
            )
        self.endpoint = endpoint
        self.id = shared.id if shared else str(uuid.uuid4())
        self._joined = shared
        # Others in a shared session may have the same tag, as the mapped instances of a task do.
        self._own_tag = f"sparkdeps-{uuid.uuid4()}" if shared else None
        self._tags = tuple(given for given in (tag, self._own_tag) if given)
        self._is_shared = shared is not None
        self._on_progress = on_progress or log.info
        self._collector = UpdateCollector()
        self._accumulators: dict[str, Accumulator] = {}
        self._heartbeat: Heartbeat | None = None
        self._at_close: list[Callable[[], object]] = []
        self._rpc: RpcClient | None = None
        self._spark: SparkSession | None = None

    @property
    def spark(self) -> SparkSession:
        """The session, as PySpark's users know it.

        :raises SessionError: it is not open.
        """
        if self._spark is None:
            raise SessionError("the session is not open: use it inside its `with` block")
        return self._spark

    @property
    def is_open(self) -> bool:
        """Whether it can be used now."""
        return self._spark is not None

    def __enter__(self) -> Self:
        # Column functions of the full pyspark look for a JVM unless they are told.
        os.environ.setdefault("SPARK_CONNECT_MODE_ENABLED", "1")
        self._rpc = RpcClient(self.endpoint, self.id)
        try:
            if self._joined is None:
                self._rpc.await_server()
                self._spark = self._open()
            else:
                self._spark = self._join(self._joined, self._rpc)
        except BaseException:
            self._own_tag = None
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loss = explain_loss(error, self._joined, self._rpc) if self._joined and self._rpc else None
        # To interrupt in a session that is gone would make a new one of its id.
        self._own_tag = None if loss else self._own_tag
        self.close()
        if loss:
            raise SessionLostError(loss) from error

    def share(self, archive: Archive | None = None) -> SharedSession:
        """Let others join this session; it then outlives the block, until `close_shared_session` or its expiry.

        :param archive: what was attached; the cluster's own Python otherwise.
        :raises SessionError: it has accumulators, or is itself a joined one.
        """
        spark, control = self.spark, self._rpc
        if control is None or self._joined or self._accumulators:
            raise SessionError(
                "a session with accumulators, or one that was joined, can't be shared: open another one to share"
            )
        shared = SharedSession(
            id=self.id,
            server_side_id=control.look(self.id),
            target=self.endpoint.target,
            user_id=control.user_id,
            interpreter=spark.conf.get(conf.PYTHON, "") or "",
            environment_key=archive.key if archive else None,
            environment_sha256=archive.sha256 if archive else None,
            python=archive.python_minor if archive else None,
            relies_on=self._heartbeat.ids if self._heartbeat else (),
        )
        self._is_shared = True
        return shared

    def accumulator(self, name: str, initial: Any = 0, param: Any = None) -> Accumulator:
        """Return a new accumulator of this session.

        :param name: an identifier; the accumulator's key in `accumulator_values`.
        :param initial: a number, whose type is that of the sum; a kind, such as `Max()`; or with `param` plain data.
        :param param: PySpark's `AccumulatorParam`, or the like: how terms are added.
        :raises InvalidArgumentError: the name is no identifier or is taken, or the value can't be meant.
        :raises SessionError: the session is shared.
        """
        if self._is_shared:
            raise SessionError(
                f"accumulator {name!r} can't be had in a shared session: Spark may send its updates to another process "
                "that uses the session. Give this task a session of its own."
            )
        if check_name(name) in self._accumulators:
            raise InvalidArgumentError(
                f"this session has an accumulator {name!r} already: use it, or choose another name"
            )
        kind = to_kind(name, initial) if param is None else WithParam(param, initial)
        self._accumulators[name] = accumulator = Accumulator(name, kind, self._collector)
        return accumulator

    @property
    def is_shared(self) -> bool:
        """Whether other processes use the session as well, or may use it."""
        return self._is_shared

    @property
    def accumulator_values(self) -> dict[str, Any]:
        """The accumulators' values by name, as plain data that others may start from."""
        return {name: accumulator.to_xcom() for name, accumulator in self._accumulators.items()}

    @property
    def rpc(self) -> RpcClient:
        """The channel beside the session's own.

        :raises SessionError: the session is not open.
        """
        if self._rpc is None:
            raise SessionError("the session is not open: use it inside its `with` block")
        return self._rpc

    def interrupt(self) -> None:
        """Have the server interrupt what runs in this session; waits 3 seconds at most and never raises.

        In a joined session that is what was started through this object.
        """
        if self._rpc:
            self._rpc.interrupt(self._own_tag)

    def keep_alive(self, session_id: str) -> None:
        """Keep another session of this server and user from expiring as long as this one is open, or joined."""
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self.rpc)
            self.add_cleanup(self._heartbeat.stop)
        self._heartbeat.add(session_id)

    def add_cleanup(self, function: Callable[[], object]) -> None:
        """Have `close()` call a function while the session is still alive; the last one given is called first.

        All of them together get 2 seconds; what they raise goes to the log.
        """
        self._at_close.append(function)

    def close(self) -> None:
        """Release the session on the server, unless it is shared, and forget it here.

        Takes 5 seconds at most, and never raises.
        """
        deadline = time.monotonic() + CLOSE_TIMEOUT
        calls, self._at_close = self._at_close, []
        if calls:
            _run_bounded("sparkdeps-at-close", lambda: _call_all(calls), timeout=CLOSE_TIMEOUT * 0.4)
        control, self._rpc = self._rpc, None
        spark, self._spark = self._spark, None
        if control is None:
            return
        if self._own_tag:
            control.interrupt(self._own_tag, timeout=CLOSE_TIMEOUT * 0.4)
        elif not self._is_shared:
            control.release(timeout=CLOSE_TIMEOUT * 0.4)
        if spark is not None:
            _run_bounded("sparkdeps-close", lambda: _stop(spark), timeout=max(0.5, deadline - time.monotonic()))
        control.close()

    def _open(self) -> SparkSession:
        from pyspark.errors import PySparkException

        self._spark = spark = self._connect()
        for key, value in self.endpoint.session_conf.items():
            try:
                spark.conf.set(key, value)
            except PySparkException as error:
                raise SessionError(
                    f"the server does not take {key}={value!r} from the connection's session conf: "
                    f"{first_line(error)}. Mend it there, or take it out."
                ) from None
        return spark

    def _join(self, shared: SharedSession, control: RpcClient) -> SparkSession:
        from pyspark.errors import PySparkException

        shared.check_endpoint(self.endpoint, control.user_id)
        shared.check_python()
        shared.check_server_side_id(control.await_session(shared))
        self._spark = spark = self._connect()
        # Sent with each request from now on: a server that restarts would make a new session of this id otherwise.
        spark.client._server_session_id = shared.server_side_id
        try:
            interpreter = spark.conf.get(conf.PYTHON, "")
        except PySparkException as error:
            if loss := explain_loss(error, shared, control):
                raise SessionLostError(loss) from None
            raise
        shared.check_interpreter(interpreter or "")
        for session_id in shared.relies_on:
            self.keep_alive(session_id)
        return spark

    def _connect(self) -> SparkSession:
        from pyspark.sql.connect.session import SparkSession

        from airflow_provider_sparkdeps.spark.channel import EndpointChannelBuilder, retry_policy
        from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
        from airflow_provider_sparkdeps.spark.interceptor import OperationInterceptor

        builder = EndpointChannelBuilder(self.endpoint, session_id=self.id, user_agent=USER_AGENT)
        size_limit = RequestSizeLimit(self.endpoint.session_conf)
        builder.add_interceptor(OperationInterceptor(self._collector, tags=self._tags, size_limit=size_limit))
        # PySpark asks for its default builder here, and needs no more of it than the base class has.
        spark = SparkSession.builder.channelBuilder(builder).create()  # type: ignore[arg-type]
        spark.client.set_retry_policies([retry_policy(self.endpoint)])
        spark.registerProgressHandler(Progress(self._on_progress))  # type: ignore[arg-type]
        return spark


def _run_bounded(name: str, work: Callable[[], object], *, timeout: float) -> None:
    # A daemon thread, since with the server gone PySpark may wait and retry, here and at exit.
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join(timeout)


def _call_all(calls: list[Callable[[], object]]) -> None:
    for call in reversed(calls):
        try:
            call()
        except Exception:
            log.warning("Something that should end with its session could not be ended", exc_info=True)


def _stop(spark: SparkSession) -> None:
    # The session has been released already; what PySpark still has under way must not be tried again.
    spark.release_session_on_close = False
    spark.client.set_retry_policies([])
    spark.client._channel.close()
    spark.stop()
