"""A session that several tasks use: a frozen value that describes it, and checks of what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import SessionError, SessionLostError
from airflow_provider_sparkdeps.utils.platforms import current_python

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.spark.endpoint import Endpoint


@dataclass(frozen=True, kw_only=True)
class SharedSession:
    """What a task needs to know to join a session; returned by `Session.share`.

    :param id: the session's id, as clients know it.
    :param server_side_id: the server's own id of the session. A new session with the same `id` has another one.
    :param target: `host:port` of the server.
    :param user_id: Spark Connect user of the session; empty if none was set.
    :param interpreter: interpreter of the Python workers, as set in the session; empty for the cluster's own Python.
    :param environment_key: key of the attached environment, if any.
    :param environment_sha256: sha256 of the attached archive, if any.
    :param python: minor version of the attached environment, for example "3.12".
    :param kept_alive: ids of sessions that this one depends on, because its executors may fetch files from them.
    """

    id: str
    server_side_id: str
    target: str
    user_id: str = ""
    interpreter: str = ""
    environment_key: str | None = None
    environment_sha256: str | None = None
    python: str | None = None
    kept_alive: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-compatible dict for XCom. It contains no credentials."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> SharedSession:
        """Return the value that `to_dict` described. Other keys of the mapping are ignored.

        :raises SessionError: if the data does not describe a shared session.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(data, Mapping) or not names <= set(data):
            kind = "dict" if isinstance(data, Mapping) else type(data).__name__
            raise SessionError(
                f"session is a {kind} that does not describe a shared session. Pass the output of the task that opens "
                "it (what `spark_session` yields, or `OpenSparkSessionOperator(...).output`)."
            )
        values = {name: data[name] for name in names}
        return cls(**values | {"kept_alive": tuple(values["kept_alive"])})

    def check_endpoint(self, endpoint: Endpoint, user_id: str) -> None:
        """Check that an endpoint and a user are those of the session.

        :raises SessionError: if the session belongs to another server or user.
        """
        if endpoint.target != self.target:
            raise SessionError(
                f"The shared session {self} was opened on {self.target}, but this connection is for {endpoint.target}. "
                "Join it with the connection that opened it."
            )
        if user_id != self.user_id:
            raise SessionError(
                f"The shared session {self} was opened by the Spark user {self.user_id!r}, but this connection uses "
                f"{user_id!r}. Set a user id (login) in the connection, so that it is the same on all workers."
            )

    def check_python(self) -> None:
        """Check that UDFs of this process can run in the session.

        :raises SessionError: if its environment has another Python version.
        """
        if self.python and self.python != current_python():
            raise SessionError(
                f"The environment of the shared session {self} has Python {self.python}, but this task runs Python "
                f"{current_python()}, and pickled UDFs only run with the same version. Run both tasks with the same "
                "Python."
            )

    def check_server_side_id(self, found: str) -> None:
        """Check that the server still has this session.

        :raises SessionLostError: if it has a new session with the same id.
        """
        if found != self.server_side_id:
            raise SessionLostError(self.loss_message("SESSION_CHANGED"))

    def check_interpreter(self, found: str) -> None:
        """Check that Python workers still run the same interpreter as when the session was shared.

        :raises SessionError: if another environment has been attached.
        """
        if found != self.interpreter:
            raise SessionError(
                f"The interpreter of the shared session {self} was changed by a task that joined it ({found or 'none'} "
                f"instead of {self.interpreter or 'none'}). Attach other environments in separate sessions."
            )

    def loss_message(self, response: str) -> str:
        """Return the message for a session that its server does not have.

        :param response: what the server returned.
        """
        if "SESSION_CLOSED" in response:
            cause = (
                "was closed or has expired: servers close sessions that have been idle for a while "
                "(spark.connect.session.manager.defaultSessionTimeout, 60 minutes by default)"
            )
        else:
            cause = f"was lost: the server at {self.target} was restarted, or removed the session long ago"
        return (
            f"The shared session {self} {cause}. Clear the task that opened it, so that all tasks that use it run "
            'again. If they leave nothing in the session for one another, open it with on_lost="reopen".'
        )

    def __str__(self) -> str:
        return self.id[:8]
