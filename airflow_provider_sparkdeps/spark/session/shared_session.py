"""A session that stays on its server for others to join: a frozen value, and how its owner ends it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import SessionError, SessionLostError
from airflow_provider_sparkdeps.utils.platforms import current_python

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.spark.endpoint import Endpoint
    from airflow_provider_sparkdeps.spark.rpc import RpcClient


@dataclass(frozen=True, kw_only=True)
class SharedSession:
    """What others need to know to join a session; `Session.share` makes it.

    :param id: the session's id, as clients know it.
    :param server_side_id: the server's own id of it, which tells a session from a new one of the same id.
    :param target: `host:port` of its server.
    :param user_id: the Spark Connect user whose session it is; empty if none was named.
    :param interpreter: what its Python workers run, as its conf says; empty for the cluster's own Python.
    :param environment_key: key of the environment that was attached, if any.
    :param environment_sha256: of the archive that was attached, if any.
    :param python: minor version of that environment, such as "3.12".
    :param relies_on: ids of sessions that hold what its executors may come back for.
    """

    id: str
    server_side_id: str
    target: str
    user_id: str = ""
    interpreter: str = ""
    environment_key: str | None = None
    environment_sha256: str | None = None
    python: str | None = None
    relies_on: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, for XCom; no credentials are in it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> SharedSession:
        """Make the value that `to_dict` described; what else is in the mapping is left alone.

        :raises SessionError: the data describes none.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or not names <= set(data):
            raise SessionError(
                f"session is {_described(data)}, and describes no shared session: give the output of the task that "
                "opens it (what `spark_session` yields, or `OpenSparkSessionOperator(...).output`)"
            )
        values = {name: data[name] for name in names}
        return cls(**values | {"relies_on": tuple(values["relies_on"])})

    def check_endpoint(self, endpoint: Endpoint, user_id: str) -> None:
        """Check that an endpoint and a user lead to the session.

        :raises SessionError: it is another server's or user's.
        """
        if endpoint.target != self.target:
            raise SessionError(
                f"the shared session {self} was opened on {self.target}, and this connection leads to "
                f"{endpoint.target}: join it with the connection that opened it"
            )
        if user_id != self.user_id:
            raise SessionError(
                f"the shared session {self} was opened by the Spark user {self.user_id!r}, and this is {user_id!r}, "
                "who would get another: write a user id (login) into the connection, so that all workers have the same"
            )

    def check_python(self) -> None:
        """Check that UDFs of this process can run in the session.

        :raises SessionError: its environment is for another Python.
        """
        if self.python and self.python != current_python():
            raise SessionError(
                f"the environment of the shared session {self} has Python {self.python}, this task runs Python "
                f"{current_python()}, and UDFs can't be pickled by one for the other: run both tasks on one Python"
            )

    def check_server_side_id(self, found: str) -> None:
        """Check that the server still has the session that was opened.

        :raises SessionLostError: it has a new one of the same id.
        """
        if found != self.server_side_id:
            raise SessionLostError(self.loss_message("SESSION_CHANGED"))

    def check_interpreter(self, found: str) -> None:
        """Check that Python workers still run what they ran when the session was shared.

        :raises SessionError: somebody has attached another environment since.
        """
        if found != self.interpreter:
            raise SessionError(
                f"the shared session {self} was given another interpreter ({found or 'none'} instead of "
                f"{self.interpreter or 'none'}) by one of those who joined it: attach other environments in sessions "
                "of their own"
            )

    def loss_message(self, said: str) -> str:
        """Return the fault, its cause and the mend, from what a server says of a session that it does not have."""
        if "SESSION_CLOSED" in said:
            cause = (
                "was closed, or has expired: servers close a session that nobody used for a while "
                "(spark.connect.session.manager.defaultSessionTimeout, 60 minutes unless set)"
            )
        else:
            cause = f"was lost: the server at {self.target} was restarted since, or has dropped it long ago"
        return (
            f"the shared session {self} {cause}. Clear the task that opened it, so that all who use it run again; "
            'open it with on_lost="reopen" if its tasks leave nothing in it for one another'
        )

    def __str__(self) -> str:
        return self.id[:8]


def is_session_gone(error: BaseException) -> bool:
    """Whether a server's answer, in gRPC's error, says that it does not have the session."""
    return "INVALID_HANDLE.SESSION_" in str(error)


def explain_loss(error: BaseException | None, shared: SharedSession, control: RpcClient) -> str | None:
    """Return what is to be said if an error of PySpark's comes from the session's being gone.

    The server is asked, since PySpark's own words depend on where it noticed.
    """
    import grpc
    from pyspark.errors import PySparkException

    if not isinstance(error, (PySparkException, grpc.RpcError)):
        return None
    try:
        shared.check_server_side_id(control.look(shared.id))
    except SessionLostError as lost:
        return str(lost)
    except grpc.RpcError as answer:
        return shared.loss_message(str(answer)) if is_session_gone(answer) else None
    return None


def close_shared_session(endpoint: Endpoint, shared: SharedSession) -> bool:
    """Release a shared session, and all that runs in it.

    :return: whether it was still there.
    :raises ConnectError: the server can't be reached, or refuses us.
    :raises SessionError: the session is another server's or user's, or the server did not answer.
    """
    from airflow_provider_sparkdeps.spark.rpc import RpcClient

    control = RpcClient(endpoint, shared.id)
    try:
        shared.check_endpoint(endpoint, control.user_id)
        try:
            shared.check_server_side_id(control.await_session(shared))
        except SessionLostError:
            return False
        if not control.release(timeout=endpoint.request_timeout):
            raise SessionError(
                f"the server at {endpoint.target} did not answer when the shared session {shared} was to be closed: "
                "run this again, or let the session expire"
            )
        return True
    finally:
        control.close()


def _described(data: Any) -> str:
    return "a dict" if isinstance(data, Mapping) else f"a {type(data).__name__}"
