"""The operator that runs a Python callable with a Spark Connect session and its own environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import PickleError
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_sparkdeps.configuration import archive_store
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import SessionLostError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.base import SparkConnectBaseOperator
from airflow_provider_sparkdeps.operators.python_callable import (
    bind_arguments,
    call,
    check_result,
    inline_environment,
    pickle_lazy_lists,
    validate_arguments,
)
from airflow_provider_sparkdeps.operators.session import SharedSessionXCom
from airflow_provider_sparkdeps.spark.accumulators import Accumulators
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_initial_values
from airflow_provider_sparkdeps.spark.broadcast import broadcast
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.check import check_udfs, explain_pickling_error
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.text import parse_template

if TYPE_CHECKING:
    from airflow.sdk import Context

_MAX_FINDINGS = 5
XCOM_ACCUMULATORS = "accumulators"


class SparkConnectPythonOperator(SparkConnectBaseOperator):
    """Run a Python callable with a Spark Connect session whose Python workers use their own environment.

    The callable runs on the Airflow worker. It gets what its signature names: `spark` (the session), `accumulators` (a
    mapping by name), `broadcast` (a function that turns a value into a broadcast variable), variables of Airflow's
    context, and its own arguments; with `**kwargs`, all of them. Its UDFs run on executors, in the environment. The
    return value goes to XCom, and the values of the accumulators go to XCom under the key `accumulators`.

    :param python_callable: the function to run, or a `functools.partial` or an object with `__call__`.
    :param environment: the environment of UDFs, whose archive is built if it is missing; "inline" for what the inline
        metadata (PEP 723) in the file of the callable describes; or an archive as a dict, as `BuildEnvironmentOperator`
        returns it. By default UDFs run in the cluster's own Python. (templated)
    :param accumulators: initial values by name: numbers that are added to, or kinds such as `Max()` and `CounterOf()`;
        or what an upstream task pushed to XCom. (templated)
    :param py_files: `.py` files and package directories to send to executors. (templated)
    :param op_args: positional arguments of the callable. (templated)
    :param op_kwargs: keyword arguments of the callable. (templated)
    :param session: a shared session to join instead of opening one: what `spark_session` yields, or the output of
        `OpenSparkSessionOperator`. Its environment is the one that it was opened with. (templated)
    :param spark_conn_id: the Airflow connection; by default that of `session`, or `sparkdeps_default`. (templated)
    :param archive_store: directory or URL of the archive store; by default `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds until a build fails; by default `[sparkdeps] build_timeout`.
    :raises InvalidArgumentError: at DAG parse, if an argument is invalid.
    """

    template_fields: Sequence[str] = (
        "environment",
        "accumulators",
        "py_files",
        "op_args",
        "op_kwargs",
        "session",
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
        environment: Environment | Mapping[str, Any] | Literal["inline"] | None = None,
        accumulators: Mapping[str, Any] | None = None,
        py_files: Sequence[str] = (),
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        session: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if environment == "inline":
            environment = inline_environment(python_callable)
        super().__init__(environment=environment, py_files=py_files, **kwargs)
        self.python_callable = python_callable
        self.accumulators = accumulators
        self.op_args = op_args or []
        self.op_kwargs = op_kwargs or {}
        self.session = session
        self._modules = ExecutorModules()
        validate_arguments(
            python_callable,
            environment=environment,
            accumulators=accumulators,
            py_files=py_files,
            op_kwargs=self.op_kwargs,
            session=session,
        )

    def execute(self, context: Context) -> Any:
        """Open or join the session, run the callable, push the accumulators, and return the callable's result."""
        ti: Any = context["ti"]
        # Templates are rendered by now.
        accumulators = check_initial_values(self.accumulators or {})
        arguments = bind_arguments(self.python_callable, self.op_args, self.op_kwargs, context)
        with self._session(self._tag(context)) as session:
            injected = {
                "spark": session.spark,
                "accumulators": Accumulators(
                    {name: session.accumulator(name, kind) for name, kind in accumulators.items()}, session.accumulator
                ),
                "broadcast": partial(broadcast, session),
            }
            root = self._source_root(ti)
            with pickle_by_value(root, sent=self._modules.py_files), pickle_lazy_lists():
                self._check_udfs(root)
                try:
                    result = call(self.python_callable, arguments, injected)
                except PickleError as error:
                    if explained := explain_pickling_error(error):
                        raise explained from error
                    raise
            values = session.accumulator_values
        check_result(result, multiple_outputs=self.multiple_outputs)
        if values:
            self.log.info("Accumulators: %s", values)
            ti.xcom_push(key=XCOM_ACCUMULATORS, value=values)
        return result

    @contextmanager
    def _session(self, tag: str) -> Iterator[Session]:
        store = archive_store(self.archive_store)
        if self.session is None:
            spark_conn_id = self.spark_conn_id or SparkConnectHook.default_conn_name
            archive = self._find_or_build(store)
            self._modules = ExecutorModules.of(archive, py_files=parse_template(self.py_files))
            with self._open_session(spark_conn_id, archive, store, py_files=self.py_files, tag=tag) as session:
                yield session
            return
        opened = SharedSessionXCom.from_dict(self.session)
        opened.check_matches(environment=self.environment, spark_conn_id=self.spark_conn_id)
        self._modules = ExecutorModules.of(None, py_files=opened.py_files)
        with ExitStack() as block:
            try:
                session = block.enter_context(self._join_session(opened, tag=tag))
            except SessionLostError as error:
                if opened.on_lost != "reopen":
                    raise
                self.log.warning("%s", error)
                self.log.warning("Opening another session for this task, because on_lost is 'reopen'")
                archive = opened.find_archive(store) if self.environment is None else self._find_or_build(store)
                own = self._open_session(opened.spark_conn_id, archive, store, py_files=opened.py_files, tag=tag)
                session = block.enter_context(own)
            yield session

    @contextmanager
    def _join_session(self, opened: SharedSessionXCom, *, tag: str) -> Iterator[Session]:
        started = time.monotonic()
        self._hook = SparkConnectHook(opened.spark_conn_id)
        with self._hook.connect(tag=tag, shared=opened.shared) as session:
            digest = opened.shared.environment_sha256
            interpreter = f"environment {digest[:12]}" if digest else "the cluster's own Python"
            self.log.info("Joined session %s with %s in %.2f s", opened.shared, interpreter, time.monotonic() - started)
            yield session

    def _check_udfs(self, root: Path) -> None:
        found = check_udfs(self.python_callable, replace(self._modules, root=root))
        for finding in found[:_MAX_FINDINGS]:
            self.log.warning("%s", finding)
        if len(found) > _MAX_FINDINGS:
            self.log.warning(
                "%d more findings like these. `sparkdeps closure` lists all findings for a function",
                len(found) - _MAX_FINDINGS,
            )

    def _source_root(self, ti: Any) -> Path:
        """Return the directory of the DAG's code: its bundle or, under `dag.test()`, the directory of its file."""
        bundle = getattr(ti, "bundle_instance", None)
        return Path(bundle.path) if bundle else Path(self.dag.fileloc).parent
