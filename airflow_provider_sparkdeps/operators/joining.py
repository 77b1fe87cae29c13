"""What the task that opened a shared session tells the tasks that join it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

OnLost = Literal["fail", "reopen"]


@dataclass(frozen=True, kw_only=True)
class SharedSessionXCom:
    """A shared session, and how Airflow's tasks get into it; a plain dict in XCom, without credentials.

    :param shared: the session.
    :param spark_conn_id: the connection that it was opened with.
    :param on_lost: what a task does that finds it lost.
    :param py_files: what executors were sent.
    """

    shared: SharedSession
    spark_conn_id: str
    on_lost: OnLost
    py_files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, for XCom."""
        own = {"spark_conn_id": self.spark_conn_id, "on_lost": self.on_lost, "py_files": list(self.py_files)}
        return {**self.shared.to_dict(), **own}

    @classmethod
    def from_dict(cls, data: Any) -> SharedSessionXCom:
        """Make the value that `to_dict` described.

        :raises SessionError: the data describes none.
        """
        shared = SharedSession.from_dict(data)
        try:
            return cls(
                shared=shared,
                spark_conn_id=data["spark_conn_id"],
                on_lost=data["on_lost"],
                py_files=tuple(data["py_files"]),
            )
        except KeyError as missing:
            raise SessionError(
                f"session describes a shared session without {missing}: give the output of `OpenSparkSessionOperator`"
            ) from None

    def check_matches(self, *, environment: Environment | Mapping[str, Any] | None, spark_conn_id: str | None) -> None:
        """Check that a task which names an environment or a connection means those of the session.

        :raises SessionError: it means others.
        """
        if spark_conn_id and spark_conn_id != self.spark_conn_id:
            raise SessionError(
                f"the shared session {self.shared} was opened with connection {self.spark_conn_id!r}, and this task "
                f"names {spark_conn_id!r}: take spark_conn_id out, or give the task a session of its own"
            )
        if environment is None:
            return
        if isinstance(environment, Environment):
            same = environment.key == self.shared.environment_key
        else:
            same = Archive.from_dict(environment).sha256 == self.shared.environment_sha256
        if not same:
            raise SessionError(
                f"this task names another environment than the one that the shared session {self.shared} was opened "
                "with, and a session has one interpreter for all who use it: take environment out, or give the task "
                "a session of its own"
            )

    def find_archive(self, store: ArchiveStore) -> Archive | None:
        """Return the archive of the environment that the session was opened with, if it had one.

        :raises ArchiveError: it is not in the store.
        """
        key = self.shared.environment_key
        if key is None:
            return None
        archive = store.find(key)
        if archive is None:
            raise ArchiveError(
                f"archive {key[:12]} of the session's environment is not in {store}: give this task the archive_store "
                "of the one that opened the session"
            )
        return archive


def check_on_lost(on_lost: Any) -> OnLost:
    """Return `on_lost` if it can be meant.

    :raises InvalidArgumentError: it can't.
    """
    if on_lost not in get_args(OnLost):
        raise InvalidArgumentError(f"on_lost {on_lost!r} is unknown: write one of {', '.join(get_args(OnLost))}")
    return on_lost  # type: ignore[no-any-return]
