"""The hook: an Airflow connection becomes a Spark Connect session."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.configuration import embedded_startup_timeout
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SparkDepsError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer, is_embedded_master
from airflow_provider_sparkdeps.spark.endpoint import DEFAULT_PORT, Endpoint
from airflow_provider_sparkdeps.spark.rpc import check_server
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession, close_shared_session
from airflow_provider_sparkdeps.utils.redaction import secrets_in

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from pyspark.sql.connect.session import SparkSession

# The extras of a connection: which fields of an Endpoint they are, and what they hold.
_EXTRAS: dict[str, tuple[str, type]] = {
    "use_tls": ("tls", bool),
    "ca_certificate": ("ca_certificate", str),
    "client_certificate": ("client_certificate", str),
    # So named since Airflow masks what is called a private key.
    "client_private_key": ("client_key", str),
    "headers": ("headers", dict),
    "session_conf": ("session_conf", dict),
    "ui_url": ("ui_url", str),
    "delivery": ("delivery", str),
    "archive_store_uri": ("archive_store_uri", str),
    "presigned_url_expiration": ("presigned_url_expiration", float),
    "request_timeout": ("request_timeout", float),
}
# apache-airflow-providers-apache-spark calls it so, in its connections of type `spark_connect`.
_ALIASES = {"use_ssl": "use_tls"}


class SparkConnectHook(BaseHook):
    """Opens Spark Connect sessions from an Airflow connection of type `sparkdeps` (or `spark_connect`).

    ```python
    with SparkConnectHook("sparkdeps_default").session() as spark:
        spark.range(3).count()
    ```

    A connection whose host is a master such as `local-cluster[2,1,1024]` or `local[2]` means a server on this
    machine, started for each session and stopped with it.

    :param spark_conn_id: id of the connection.
    """

    conn_name_attr = "spark_conn_id"
    default_conn_name = "sparkdeps_default"
    conn_type = "sparkdeps"
    hook_name = "Spark Connect (sparkdeps)"

    def __init__(self, spark_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spark_conn_id = spark_conn_id
        self._sessions: list[Session] = []

    @contextmanager
    def connect(self, *, tag: str | None = None, shared: SharedSession | None = None) -> Iterator[Session]:
        """Open a session, as an object with everything that this package does with one.

        It is released within 5 seconds when the block ends.

        :param tag: added to all operations of the session, such as `dag.task`.
        :param shared: a shared session to join instead; it stays open when the block ends.
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
        """Open a session, as PySpark's SparkSession; otherwise the same as `connect`."""
        with self.connect(tag=tag, shared=shared) as session:
            yield session.spark

    def check_shareable(self) -> None:
        """Check that sessions of this connection can outlive the task that opens them.

        :raises InvalidArgumentError: its server is stopped with each session.
        """
        master = self.get_connection(self.spark_conn_id).host or ""
        if is_embedded_master(master):
            raise InvalidArgumentError(
                f"connection {self.spark_conn_id!r} starts a server ({master}) for each session, and stops it with the "
                "session, so that nobody else can join: give the address of a running server to share sessions"
            )

    def close_shared_session(self, shared: SharedSession) -> bool:
        """Release a shared session, and all that runs in it; return whether it was still there.

        :raises ConnectError: the server can't be reached, or refuses us.
        :raises SessionError: the session is another server's or user's, or the server did not answer.
        """
        with self._endpoint() as endpoint:
            return close_shared_session(endpoint, shared)

    def interrupt(self) -> None:
        """Have the server interrupt what runs in this hook's open sessions; takes 3 seconds at most for each."""
        for session in list(self._sessions):
            session.interrupt()

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the connection works, and if not, why: for the button in Airflow's UI."""
        try:
            with self._endpoint() as endpoint:
                version = check_server(endpoint)
        except SparkDepsError as error:
            return False, str(error)
        return True, f"Spark Connect {version} answers at {endpoint.target}"

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


def endpoint_from_connection(connection: Connection, *, host: str | None = None, port: int | None = None) -> Endpoint:
    """Return where an Airflow connection leads, and how.

    :param host: instead of the connection's own.
    :param port: instead of the connection's own; 15002 if neither says.
    :raises InvalidArgumentError: if a field is invalid; the message names connection and field, not the value of a
        secret.
    """
    try:
        if host is None:
            host, own_port = _host_of(connection)
            port = port or own_port
        return Endpoint(
            host=host,
            port=port or DEFAULT_PORT,
            user_id=connection.login or None,
            token=connection.password or None,
            **_extras(connection),
        )
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"connection {connection.conn_id!r}: {error}") from None


def _host_of(connection: Connection) -> tuple[str, int | None]:
    host = (connection.host or "").strip()
    if not host:
        raise InvalidArgumentError("host is empty: write the Spark Connect server's name, or local-cluster[2,1,1024]")
    if "://" not in host:
        return host, connection.port
    try:
        parts = urlsplit(host)
        given_port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"host can't be read as an address ({error})") from None
    if parts.scheme != "sc" or parts.path.strip("/") or parts.query or parts.username:
        raise InvalidArgumentError("host is an address of another kind: write sc://name:port, or the name alone")
    return parts.hostname or "", connection.port or given_port


def _extras(connection: Connection) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in connection.extra_dejson.items():
        name = _ALIASES.get(key, key)
        if name not in _EXTRAS:
            if connection.conn_type == SparkConnectHook.conn_type:
                raise InvalidArgumentError(
                    f"extra {key!r} is unknown: take it out, or write one of {', '.join(_EXTRAS)}"
                )
            continue
        if value is None or value == "":
            continue  # a field of the form that nobody touched
        field, kind = _EXTRAS[name]
        fields[field] = _convert_extra(key, value, kind)
    secret_parts = secrets_in(fields.get("archive_store_uri"))
    for secret in (fields.get("client_key"), *fields.get("headers", {}).values(), *secret_parts):
        mask_secret(secret)
    return fields


def _convert_extra(key: str, value: Any, kind: type) -> Any:
    if kind is dict:
        return _mapping(key, value)
    # A connection that was given as a URI has text only.
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if kind is str and isinstance(value, str):
        return value.strip()
    wanted = {bool: "true or false", float: "a number", str: "a text"}[kind]
    raise InvalidArgumentError(f"extra {key!r} is {type(value).__name__}: write {wanted}")


def _mapping(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f'extra {key!r} is no object: write it as JSON, such as {{"name": "value"}}')
    # JSON's booleans and numbers, as Spark and gRPC write them.
    return {str(name): entry if isinstance(entry, str) else json.dumps(entry) for name, entry in value.items()}
