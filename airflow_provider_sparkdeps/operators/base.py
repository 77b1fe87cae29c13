"""What operators with a Spark Connect session and an environment have in common."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.configuration import build_timeout, logins_for
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import ArchiveError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.delivery.reference import explain_fetch_errors
from airflow_provider_sparkdeps.spark.session import Session

if TYPE_CHECKING:
    from airflow.sdk import Context


class SparkConnectBaseOperator(BaseOperator):
    """Has an environment, finds or builds its archive, attaches it, and interrupts Spark when it is killed.

    :param environment: what UDFs need: built first, if its archive is missing; or an archive as a dict, as
        `BuildEnvironmentOperator` returns it. The cluster's own Python if left out. (templated)
    :param py_files: `.py` files and package directories to ship to executors. (templated)
    :param spark_conn_id: the Airflow connection. (templated)
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds that building the environment may take, instead of `[sparkdeps] build_timeout`.
    """

    def __init__(
        self,
        *,
        environment: Environment | Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        spark_conn_id: str | None = None,
        archive_store: str | None = None,
        build_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.environment = environment
        self.py_files = py_files
        self.spark_conn_id = spark_conn_id
        self.archive_store = archive_store
        self.build_timeout = build_timeout
        self._hook: SparkConnectHook | None = None

    def on_kill(self) -> None:
        """Make what the task waits for fail; Airflow calls this in a signal handler, and kills 5 seconds later."""
        if self._hook:
            self._hook.interrupt()

    def _tag(self, context: Context) -> str:
        ti: Any = context["ti"]
        return f"{ti.dag_id}.{ti.task_id}.{ti.run_id}".replace(",", "_")

    @contextmanager
    def _open_session(
        self, spark_conn_id: str, archive: Archive | None, store: ArchiveStore, *, py_files: Sequence[str], tag: str
    ) -> Iterator[Session]:
        self._hook = SparkConnectHook(spark_conn_id)
        with self._hook.connect(tag=tag) as session:
            uri = self._attach(session, archive, store) if archive is not None else None
            add_py_files(session, py_files)
            with explain_fetch_errors(uri):
                yield session

    def _archive(self, store: ArchiveStore) -> Archive | None:
        if self.environment is None:
            return None
        if isinstance(self.environment, Environment):
            return store.build(
                self.environment,
                timeout=build_timeout(self.build_timeout),
                progress=self.log.info,
                logins=logins_for(self.environment),
            )
        archive = Archive.from_dict(self.environment)
        if store.find(archive.key) is None:
            raise ArchiveError(
                f"archive {archive.key[:12]} is not in {store}: let this task wait for the one that builds it, and "
                "give both the same archive_store"
            )
        return archive

    def _attach(self, session: Session, archive: Archive, store: ArchiveStore) -> str | None:
        started = time.monotonic()
        attached = attach(session, archive, store, on_secret=mask_secret)
        self.log.info(
            "Attached environment %s (Python %s, %.1f MB) in %.2f s",
            archive.short_digest,
            archive.python,
            archive.size / 1e6,
            time.monotonic() - started,
        )
        return attached.uri
