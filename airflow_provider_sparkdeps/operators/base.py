"""The base of operators that open a Spark Connect session with an environment."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.configuration import build_timeout
from airflow_provider_sparkdeps.connections import logins_for
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import ArchiveError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.delivery.reference import explain_fetch_errors
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.redaction import redact
from airflow_provider_sparkdeps.utils.text import parse_template

if TYPE_CHECKING:
    from airflow.sdk import Context


class SparkConnectBaseOperator(BaseOperator):
    """Find or build an archive, attach it to a session, and interrupt Spark when the task is killed.

    :param environment: the environment of UDFs, whose archive is built if it is missing; or an archive as a dict, as
        `BuildEnvironmentOperator` returns it. By default UDFs run in the cluster's own Python. (templated)
    :param py_files: `.py` files and package directories to send to executors. (templated)
    :param spark_conn_id: the Airflow connection. (templated)
    :param archive_store: directory or URL of the archive store; by default `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds until a build fails; by default `[sparkdeps] build_timeout`.
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
        """Interrupt what the task waits for. Airflow calls this in a signal handler and kills the task 5 s later."""
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
            add_py_files(session, parse_template(py_files))
            with explain_fetch_errors(uri):
                yield session

    def _find_or_build(self, store: ArchiveStore) -> Archive | None:
        if self.environment is None:
            return None
        if isinstance(self.environment, Environment):
            return store.build(
                self.environment,
                timeout=build_timeout(self.build_timeout),
                progress=self.log.info,
                logins=logins_for(self.environment),
            )
        archive = Archive.from_dict(parse_template(self.environment))
        if store.find(archive.key) is None:
            raise ArchiveError(
                f"Archive {archive.short_digest} is not in {store}. Run this task after the one that builds it, and "
                "give both the same archive_store."
            )
        return archive

    def _attach(self, session: Session, archive: Archive, store: ArchiveStore) -> str | None:
        """Attach an archive, and return the URI at which the cluster reads it, if it does."""
        started = time.monotonic()
        uri = attach(session, archive, store, on_secret=mask_secret).uri
        self.log.info(
            "Attached environment %s (Python %s, %.1f MB%s) in %.2f s",
            archive.short_digest,
            archive.python,
            archive.size / 1e6,
            f", read by the cluster from {redact(uri.partition('?')[0])}" if uri else "",
            time.monotonic() - started,
        )
        return uri
