"""The hook that opens Spark Connect sessions from an Airflow connection."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider_sparkdeps.configuration import embedded_startup_timeout
from airflow_provider_sparkdeps.connections import CONN_TYPE, endpoint_from_connection
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SparkDepsError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer, is_embedded_master
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import check_server
from airflow_provider_sparkdeps.spark.session import Session, SharedSession
from airflow_provider_sparkdeps.spark.session.sharing import close_shared

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession


class SparkConnectHook(BaseHook):
    """Open Spark Connect sessions from an Airflow connection of type `sparkdeps` or `spark_connect`.

    .. code-block:: python

        with SparkConnectHook("sparkdeps_default").session() as spark:
            spark.range(3).count()

    If the host of the connection is a Spark master such as `local-cluster[2,1,1024]` or `local[2]`, each session starts
    a server on this machine, and stops it when the session ends.

    :param spark_conn_id: id of the connection.
    """

    conn_name_attr = "spark_conn_id"
    default_conn_name = "sparkdeps_default"
    conn_type = CONN_TYPE
    hook_name = "Spark Connect (sparkdeps)"

    def __init__(self, spark_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spark_conn_id = spark_conn_id
        self._sessions: list[Session] = []

    @contextmanager
    def connect(self, *, tag: str | None = None, shared: SharedSession | None = None) -> Iterator[Session]:
        """Open a session for the length of a `with` block, as a :class:`~airflow_provider_sparkdeps.Session`.

        It is released within five seconds when the block ends.

        :param tag: added to all operations of the session, for example `my_dag.my_task`.
        :param shared: a shared session to join instead of opening one. It stays open when the block ends.
        :raises SessionLostError: if the shared session was closed, has expired, or ended with its server.
        :raises InvalidArgumentError: if a field of the connection is invalid.
        :raises ConnectError: if the server can't be reached, rejects the credentials, or is not a supported server.
        """
        on_progress = logging.getLogger(__name__).info
        with (
            self._endpoint() as endpoint,
            Session(endpoint, tag=tag, on_progress=on_progress, shared=shared) as session,
        ):
            self._sessions.append(session)
            try:
                yield session
            finally:
                self._sessions.remove(session)

    @contextmanager
    def session(self, *, tag: str | None = None, shared: SharedSession | None = None) -> Iterator[SparkSession]:
        """Open a session for the length of a `with` block, as PySpark's SparkSession. See :meth:`connect`."""
        with self.connect(tag=tag, shared=shared) as session:
            yield session.spark

    def check_shareable(self) -> None:
        """Check that a session of this connection can outlive the task that opens it.

        :raises InvalidArgumentError: if the connection starts a server for each session.
        """
        master = self.get_connection(self.spark_conn_id).host or ""
        if is_embedded_master(master):
            raise InvalidArgumentError(
                f"Sessions of connection {self.spark_conn_id!r} can't be shared: it starts a server ({master}) for "
                "each session, and stops it with the session. Use a connection to a running server."
            )

    def close_shared_session(self, shared: SharedSession) -> bool:
        """Release a shared session and interrupt what runs in it.

        :param shared: the session.
        :return: whether the session was still open.
        :raises ConnectError: if the server can't be reached or rejects the credentials.
        :raises SessionError: if the session belongs to another server or user, or the server did not answer.
        """
        with self._endpoint() as endpoint:
            return close_shared(endpoint, shared)

    def interrupt(self) -> None:
        """Interrupt what runs in this hook's open sessions. This takes three seconds at most for each session."""
        for session in list(self._sessions):
            session.interrupt()

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and a sentence for the Test button in Airflow's UI."""
        try:
            with self._endpoint() as endpoint:
                version = check_server(endpoint)
        except SparkDepsError as error:
            return False, str(error)
        return True, f"Connected to Spark Connect {version} at {endpoint.target}."

    @contextmanager
    def _endpoint(self) -> Iterator[Endpoint]:
        connection = self.get_connection(self.spark_conn_id)
        master = connection.host or ""
        if not is_embedded_master(master):
            yield endpoint_from_connection(connection)
            return
        self.log.info("Starting a Spark Connect server on this machine: %s", master)
        with EmbeddedServer(master, startup_timeout=embedded_startup_timeout()) as server:
            yield endpoint_from_connection(connection, host=server.host, port=server.port)
