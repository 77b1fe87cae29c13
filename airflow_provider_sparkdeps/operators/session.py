"""The operators that open and close a session which several tasks of a DAG run share, and the pair of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg

from airflow_provider_sparkdeps.configuration import archive_store
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.base import SparkConnectBaseOperator
from airflow_provider_sparkdeps.operators.joining import OnLost, SharedSessionXCom, check_on_lost

if TYPE_CHECKING:
    from airflow.sdk import Context


class OpenSparkSessionOperator(SparkConnectBaseOperator):
    """Opens a session with an environment for other tasks to join; returns what they need to know, as a dict.

    The session stays until `CloseSparkSessionOperator` closes it, or until nobody has used it for as long as the
    server's `spark.connect.session.manager.defaultSessionTimeout` says: 60 minutes, unless set.

    :param environment: what UDFs need: built first, if its archive is missing; or an archive as a dict, as
        `BuildEnvironmentOperator` returns it. The cluster's own Python if left out. (templated)
    :param py_files: `.py` files and package directories to ship to executors. (templated)
    :param on_lost: what a task does that finds the session expired, closed, or lost with its server. `fail`, the
        default, fails it before its callable runs. `reopen` gives it a session of its own with the same environment,
        without the temporary views, settings and cached tables that other tasks have left in the lost one: say so
        only if tasks leave nothing in the session that others need.
    :param spark_conn_id: the Airflow connection; `sparkdeps_default` if left out. (templated)
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds that building the environment may take, instead of `[sparkdeps] build_timeout`.
    :raises InvalidArgumentError: at DAG parse, when an argument can't be meant.
    """

    template_fields: Sequence[str] = ("environment", "py_files", "spark_conn_id", "archive_store")
    ui_color = "#f4e3d0"

    def __init__(self, *, on_lost: OnLost = "fail", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_lost = check_on_lost(on_lost)

    def execute(self, context: Context) -> dict[str, Any]:
        spark_conn_id = self.spark_conn_id or SparkConnectHook.default_conn_name
        SparkConnectHook(spark_conn_id).check_shareable()
        store = archive_store(self.archive_store)
        archive = self._archive(store)
        tag = self._tag(context)
        with self._open_session(spark_conn_id, archive, store, py_files=self.py_files, tag=tag) as session:
            shared = session.share(archive)
        self.log.info("Opened session %s for other tasks", shared)
        return SharedSessionXCom(
            shared=shared, spark_conn_id=spark_conn_id, on_lost=self.on_lost, py_files=tuple(map(str, self.py_files))
        ).to_dict()


class CloseSparkSessionOperator(BaseOperator):
    """Closes a shared session, and interrupts what still runs in it; one that is gone already is no fault.

    :param session: the output of `OpenSparkSessionOperator`. (templated)
    """

    template_fields: Sequence[str] = ("session",)
    ui_color = "#f4e3d0"

    def __init__(self, *, session: Mapping[str, Any] | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session = session

    def execute(self, context: Context) -> None:
        opened = SharedSessionXCom.from_dict(self.session)
        was_there = SparkConnectHook(opened.spark_conn_id).close_shared_session(opened.shared)
        self.log.info("Session %s %s", opened.shared, "is closed" if was_there else "was gone already")


@contextmanager
def spark_session(name: str = "spark_session", **kwargs: Any) -> Iterator[XComArg]:
    """Open a session for the tasks of a `with` block in a DAG, and close it after the last of them, even if some fail.

    ```python
    with spark_session(environment=scoring) as session:

        @task.spark_connect(session=session)
        def score(spark): ...

        score()
    ```

    Makes the setup task `open_<name>` and the teardown task `close_<name>`.

    :param name: ends the ids of the two tasks.
    :param kwargs: what `OpenSparkSessionOperator` takes, except `task_id`.
    """
    opening = OpenSparkSessionOperator(task_id=f"open_{name}", **kwargs)
    session = XComArg(opening)
    closing = CloseSparkSessionOperator(task_id=f"close_{name}", session=session)
    with closing.as_teardown(setups=opening):
        yield session
    # Airflow leaves mapped tasks out, and would close the session while they run.
    for joining in opening.downstream_list:
        if joining.task_id != closing.task_id:
            closing.set_upstream(joining)
