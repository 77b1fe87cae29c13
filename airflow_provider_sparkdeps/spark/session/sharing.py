"""Calls to a server about shared sessions: to join one, to explain its loss, to close it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.exceptions import SessionError, SessionLostError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.pyspark_compat import set_server_side_id
from airflow_provider_sparkdeps.spark.rpc import RpcClient
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.spark.endpoint import Endpoint


def open_shared(
    shared: SharedSession, endpoint: Endpoint, rpc: RpcClient, *, connect: Callable[[], SparkSession]
) -> SparkSession:
    """Return a SparkSession for a session that the server already has; none is created.

    :param connect: returns a SparkSession with the id of the shared session, without calling the server.
    :raises SessionLostError: if the server does not have the session.
    :raises SessionError: if the session belongs to another server or user, has another Python, or another environment
        has been attached to it.
    :raises ConnectError: if the server could not be reached.
    """
    from pyspark.errors import PySparkException

    shared.check_python()
    _check_exists(shared, endpoint, rpc)
    spark = connect()
    # A restarted server would otherwise create a new session with this id.
    set_server_side_id(spark, shared.server_side_id)
    try:
        interpreter = spark.conf.get(conf.PYTHON, "")
    except PySparkException as error:
        if loss := explain_loss(error, shared, rpc):
            raise SessionLostError(loss) from None
        raise
    shared.check_interpreter(interpreter or "")
    return spark


def explain_loss(error: BaseException | None, shared: SharedSession, rpc: RpcClient) -> str | None:
    """Return a message if an error of PySpark was raised because the server does not have the session any more.

    The server is asked, since PySpark's own message depends on where it noticed.
    """
    import grpc
    from pyspark.errors import PySparkException

    from airflow_provider_sparkdeps.spark.grpc_errors import is_session_gone

    if not isinstance(error, (PySparkException, grpc.RpcError)):
        return None
    try:
        shared.check_server_side_id(rpc.server_side_id(shared.id))
    except SessionLostError as lost:
        return str(lost)
    except grpc.RpcError as response:
        return shared.loss_message(str(response)) if is_session_gone(response) else None
    return None


def close_shared(endpoint: Endpoint, shared: SharedSession) -> bool:
    """Release a shared session and everything that runs in it.

    :return: whether the server still had it.
    :raises ConnectError: if the server could not be reached or rejected the call.
    :raises SessionError: if the session belongs to another server or user, or the server did not respond.
    """
    rpc = RpcClient(endpoint, shared.id)
    try:
        try:
            _check_exists(shared, endpoint, rpc)
        except SessionLostError:
            return False
        if not rpc.release(timeout=endpoint.request_timeout):
            raise SessionError(
                f"Could not close the shared session {shared}: the server at {endpoint.target} did not respond. Try "
                "again, or let the session expire."
            )
        return True
    finally:
        rpc.close()


def _check_exists(shared: SharedSession, endpoint: Endpoint, rpc: RpcClient) -> None:
    """Check that the endpoint's server has the session; retry while nobody answers."""
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import is_session_gone

    shared.check_endpoint(endpoint, rpc.user_id)
    try:
        found = rpc.wait_for(lambda timeout: rpc.server_side_id(shared.id, timeout), give_up_if=is_session_gone)
    except grpc.RpcError as error:
        raise SessionLostError(shared.loss_message(str(error))) from None
    shared.check_server_side_id(found)
