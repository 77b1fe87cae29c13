"""Operators that open and close a session for several tasks of a DAG run, and what tasks know of it through XCom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow.sdk import BaseOperator, XComArg

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.configuration import archive_store
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.base import SparkConnectBaseOperator
from airflow_provider_sparkdeps.spark.session import SharedSession
from airflow_provider_sparkdeps.utils.text import parse_template

if TYPE_CHECKING:
    from airflow.sdk import Context

OnLost = Literal["fail", "reopen"]


class OpenSparkSessionOperator(SparkConnectBaseOperator):
    """Open a session with an environment that other tasks join, and return its description as a dict.

    The session stays open until `CloseSparkSessionOperator` closes it, or until it has been unused for the server's
    `spark.connect.session.manager.defaultSessionTimeout`, 60 minutes by default.

    :param environment: the environment of UDFs, whose archive is built if it is missing; or an archive as a dict, as
        `BuildEnvironmentOperator` returns it. By default UDFs run in the cluster's own Python. (templated)
    :param py_files: `.py` files and package directories to send to executors. (templated)
    :param on_lost: what a task does if the session was closed, has expired or ended with its server. With `fail`, the
        default, the task fails before its callable runs. With `reopen`, the task gets its own session with the same
        environment. That session does not have the temporary views, settings and cached tables of the lost one, so use
        `reopen` only if tasks leave nothing in the session for each other.
    :param spark_conn_id: the Airflow connection, `sparkdeps_default` by default. (templated)
    :param archive_store: directory or URL of the archive store; by default `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds until a build fails; by default `[sparkdeps] build_timeout`.
    :raises InvalidArgumentError: at DAG parse, if an argument is invalid.
    """

    template_fields: Sequence[str] = ("environment", "py_files", "spark_conn_id", "archive_store")
    ui_color = "#f4e3d0"

    def __init__(self, *, on_lost: OnLost = "fail", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if on_lost not in get_args(OnLost):
            raise InvalidArgumentError(f"on_lost={on_lost!r} is unknown. Use one of {', '.join(get_args(OnLost))}.")
        self.on_lost = on_lost

    def execute(self, context: Context) -> dict[str, Any]:
        spark_conn_id = self.spark_conn_id or SparkConnectHook.default_conn_name
        SparkConnectHook(spark_conn_id).check_shareable()
        store = archive_store(self.archive_store)
        archive = self._find_or_build(store)
        tag = self._tag(context)
        with self._open_session(spark_conn_id, archive, store, py_files=self.py_files, tag=tag) as session:
            shared = session.share(archive)
        self.log.info("Opened session %s for other tasks", shared)
        return SharedSessionXCom(
            shared=shared,
            spark_conn_id=spark_conn_id,
            on_lost=self.on_lost,
            py_files=tuple(map(str, parse_template(self.py_files))),
        ).to_dict()


class CloseSparkSessionOperator(BaseOperator):
    """Close a shared session and interrupt what still runs in it. It succeeds if the session was closed already.

    :param session: the output of `OpenSparkSessionOperator`. (templated)
    """

    template_fields: Sequence[str] = ("session",)
    ui_color = "#f4e3d0"

    def __init__(self, *, session: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session = session

    def execute(self, context: Context) -> None:
        opened = SharedSessionXCom.from_dict(self.session)
        was_open = SparkConnectHook(opened.spark_conn_id).close_shared_session(opened.shared)
        self.log.info("Closed session %s" if was_open else "Session %s was closed already", opened.shared)


@contextmanager
def spark_session(name: str = "spark_session", **kwargs: Any) -> Iterator[XComArg]:
    """Open a session for the tasks of a `with` block in a DAG, and close it after the last of them, even if some fail.

    .. code-block:: python

        with spark_session(environment=scoring) as session:

            @task.spark_connect(session=session)
            def score(spark): ...

            score()

    This adds the setup task `open_<name>` and the teardown task `close_<name>`.

    :param name: the end of the ids of the two tasks.
    :param kwargs: arguments of `OpenSparkSessionOperator`, except `task_id`.
    """
    opening = OpenSparkSessionOperator(task_id=f"open_{name}", **kwargs)
    session = XComArg(opening)
    closing = CloseSparkSessionOperator(task_id=f"close_{name}", session=session)
    with closing.as_teardown(setups=opening):
        yield session
    # Airflow does not add mapped tasks to the block, and would close the session while they run.
    for user in opening.downstream_list:
        if user.task_id != closing.task_id:
            closing.set_upstream(user)


@dataclass(frozen=True, kw_only=True)
class SharedSessionXCom:
    """A shared session and how tasks join it. In XCom it is a dict without credentials.

    :param shared: the session.
    :param spark_conn_id: the connection that it was opened with.
    :param on_lost: what a task does if the session is lost: `fail` or `reopen`.
    :param py_files: the files that were sent to executors.
    """

    shared: SharedSession
    spark_conn_id: str
    on_lost: OnLost
    py_files: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data for XCom."""
        own = {"spark_conn_id": self.spark_conn_id, "on_lost": self.on_lost, "py_files": list(self.py_files)}
        return {**self.shared.to_dict(), **own}

    @classmethod
    def from_dict(cls, data: Any) -> SharedSessionXCom:
        """Return the value that `to_dict` described.

        :raises SessionError: if the data does not describe a shared session.
        """
        data = parse_template(data)
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
                f"session does not describe a shared session: {missing} is missing. Use the output of"
                " OpenSparkSessionOperator."
            ) from None

    def check_matches(self, *, environment: Environment | Mapping[str, Any] | None, spark_conn_id: str | None) -> None:
        """Check that the environment and the connection of a task are those of the session.

        :param environment: the environment of the task; None if it names none.
        :param spark_conn_id: the connection of the task; None if it names none.
        :raises SessionError: if they are not.
        """
        if spark_conn_id and spark_conn_id != self.spark_conn_id:
            raise SessionError(
                f"The shared session {self.shared} was opened with connection {self.spark_conn_id!r}, and this task "
                f"uses {spark_conn_id!r}. Remove spark_conn_id, or remove session so that the task opens its own."
            )
        if environment is None:
            return
        if isinstance(environment, Environment):
            same = environment.key == self.shared.environment_key
        else:
            same = Archive.from_dict(parse_template(environment)).sha256 == self.shared.environment_sha256
        if not same:
            raise SessionError(
                f"The shared session {self.shared} was opened with another environment than this task's, and a "
                "session has one interpreter for all tasks. Remove environment, or remove session so that the task "
                "opens its own."
            )

    def find_archive(self, store: ArchiveStore) -> Archive | None:
        """Return the archive that the session was opened with; None if it was opened without an environment.

        :raises ArchiveError: if it is not in the store.
        """
        key = self.shared.environment_key
        if key is None:
            return None
        archive = store.find(key)
        if archive is None:
            raise ArchiveError(
                f"Archive {key[:12]} of the shared session is not in {store}. Give this task the archive_store of the "
                "task that opened the session."
            )
        return archive
