"""The operator that runs a Python callable in a Spark Connect session with its own environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.archives.addresses import secrets_in
from airflow_provider_sparkdeps.configuration import archive_store, build_timeout, logins_for
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.errors import ArchiveError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.callables import bind, call, check_result, check_wish
from airflow_provider_sparkdeps.spark.accumulators import Accumulators, check_initial_values
from airflow_provider_sparkdeps.spark.attach import add_py_files, attach
from airflow_provider_sparkdeps.spark.closures import by_value
from airflow_provider_sparkdeps.spark.reference import told_of_late_failures
from airflow_provider_sparkdeps.spark.session import Session

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pyspark.sql.connect.session import SparkSession

XCOM_ACCUMULATORS = "accumulators"


class SparkConnectPythonOperator(BaseOperator):
    """Runs a Python callable with a Spark Connect session whose Python workers have their own environment.

    The callable runs on the Airflow worker and gets what its signature names: `spark` (the session), `accumulators`
    (by name), Airflow's context variables, and its own arguments. Its UDFs run on executors, in the environment.
    Its return value goes to XCom, the accumulators' values go to XCom under the key `accumulators`.

    :param python_callable: what to run.
    :param environment: what UDFs need: built first, if its archive is missing; or an archive as a dict, as
        `BuildEnvironmentOperator` returns it. The cluster's own Python if left out. (templated)
    :param accumulators: initial values by name: int or float; or an upstream task's XCom. (templated)
    :param py_files: `.py` files and package directories to ship to executors. (templated)
    :param op_args: positional arguments for the callable. (templated)
    :param op_kwargs: keyword arguments for the callable. (templated)
    :param spark_conn_id: the Airflow connection. (templated)
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds that building the environment may take, instead of `[sparkdeps] build_timeout`.
    :raises WishError: at DAG parse, when an argument can't be meant.
    """

    template_fields: Sequence[str] = (
        "environment",
        "accumulators",
        "py_files",
        "op_args",
        "op_kwargs",
        "spark_conn_id",
        "archive_store",
    )
    template_fields_renderers = {"op_args": "py", "op_kwargs": "py", "accumulators": "py"}
    shallow_copy_attrs: Sequence[str] = ("python_callable",)
    ui_color = "#f4e3d0"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        environment: Environment | Mapping[str, Any] | None = None,
        accumulators: Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        spark_conn_id: str = SparkConnectHook.default_conn_name,
        archive_store: str | None = None,
        build_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.python_callable = python_callable
        self.environment = environment
        self.accumulators = accumulators
        self.py_files = py_files
        self.op_args = op_args or []
        self.op_kwargs = op_kwargs or {}
        self.spark_conn_id = spark_conn_id
        self.archive_store = archive_store
        self.build_timeout = build_timeout
        self._hook: SparkConnectHook | None = None
        check_wish(
            python_callable,
            environment=environment,
            accumulators=accumulators,
            py_files=py_files,
            op_kwargs=self.op_kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Build what is missing, open a session, attach the environment, run the callable, close."""
        ti: Any = context["ti"]
        # Rendered now: what was a template when the DAG was parsed is a value.
        accumulators = check_initial_values(self.accumulators or {})
        store = archive_store(self.archive_store)
        archive = self._archive(store)
        arguments = bind(self.python_callable, self.op_args, self.op_kwargs, context)
        self._hook = SparkConnectHook(self.spark_conn_id)
        with self._hook.session(tag=f"{ti.dag_id}.{ti.task_id}.{ti.run_id}".replace(",", "_")) as spark:
            session = Session.of(spark)
            uri = self._attach(spark, archive, store) if archive is not None else None
            add_py_files(spark, self.py_files)
            injected = {
                "spark": spark,
                "accumulators": Accumulators(
                    {name: session.accumulator(name, value) for name, value in accumulators.items()}
                ),
            }
            with by_value(self._sources(ti)), told_of_late_failures(uri):
                result = call(self.python_callable, arguments, injected)
            values = session.accumulator_values
        check_result(result, multiple_outputs=self.multiple_outputs)
        if values:
            self.log.info("Accumulators: %s", values)
            ti.xcom_push(key=XCOM_ACCUMULATORS, value=values)
        return result

    def on_kill(self) -> None:
        """Make what the callable waits for fail; Airflow calls this in a signal handler, and kills 5 seconds later."""
        if self._hook:
            self._hook.interrupt()

    def _sources(self, ti: Any) -> Path:
        """Where the DAG's own code is: its bundle or, under `dag.test()`, which has none, the folder of its file."""
        bundle = getattr(ti, "bundle_instance", None)
        return Path(bundle.path) if bundle else Path(self.dag.fileloc).parent

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

    def _attach(self, spark: SparkSession, archive: Archive, store: ArchiveStore) -> str | None:
        """Attach the environment, and return where the cluster reads it, if it does."""
        started = time.monotonic()
        endpoint = Session.of(spark).endpoint
        uri, delivery = None, endpoint.delivery
        if delivery == "reference":
            uri = store.uri(archive, expiration=endpoint.presigned_url_expiration, root=endpoint.archive_store_uri)
            for secret in secrets_in(uri):
                mask_secret(secret)
        new = attach(spark, archive, payload=lambda: store.fetch(archive), uri=uri)
        self.log.info(
            "Attached environment %s (Python %s, %.1f MB, %s) in %.1f s",
            archive.digest12,
            archive.python,
            archive.size / 1e6,
            {"upload": "uploaded", "reference": "read by the cluster"}[delivery] if new else "the session had it",
            time.monotonic() - started,
        )
        return uri
