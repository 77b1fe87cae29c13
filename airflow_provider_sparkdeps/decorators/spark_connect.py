"""The decorator `@task.spark_connect`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_provider_sparkdeps.operators.python_callable import hide_injected
from airflow_provider_sparkdeps.operators.spark_connect import SparkConnectPythonOperator


class _SparkConnectDecoratedOperator(DecoratedOperator, SparkConnectPythonOperator):
    """Wrap a function into a `SparkConnectPythonOperator`."""

    template_fields = SparkConnectPythonOperator.template_fields
    template_fields_renderers = SparkConnectPythonOperator.template_fields_renderers
    shallow_copy_attrs = SparkConnectPythonOperator.shallow_copy_attrs
    custom_operator_name = "@task.spark_connect"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] = (),
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Airflow checks the call against the public signature. The operator gets the function itself.
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            kwargs_to_upstream={
                "python_callable": python_callable.hides,  # type: ignore[attr-defined]
                "op_args": op_args,
                "op_kwargs": op_kwargs,
            },
            **kwargs,
        )


def spark_connect_task(
    python_callable: Callable[..., Any] | None = None,
    multiple_outputs: bool | None = None,
    **kwargs: Any,
) -> TaskDecorator:
    """Turn a function into a task that runs with a Spark Connect session.

    .. code-block:: python

        @task.spark_connect(environment=VenvEnvironment(["pandas<3", "pyarrow"]))
        def count(spark, table): ...

    :param python_callable: the function to decorate.
    :param multiple_outputs: push each key of a returned dict as a separate XCom.
    :param kwargs: arguments of `SparkConnectPythonOperator`, except `op_args` and `op_kwargs`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return task_decorator_factory(
            python_callable=hide_injected(function),
            multiple_outputs=multiple_outputs,
            decorated_operator_class=_SparkConnectDecoratedOperator,
            **kwargs,
        )

    return cast("TaskDecorator", decorate if python_callable is None else decorate(python_callable))
