"""Checks and calls the Python callable of a task."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.definitions.context import context_merge

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_initial_values, check_name, to_kind

if TYPE_CHECKING:
    from airflow.sdk import Context

# What a callable gets in addition to its own arguments and Airflow's context, if its signature names it.
INJECTED = ("spark", "accumulators", "broadcast")


def validate_arguments(
    python_callable: Callable[..., Any],
    *,
    environment: Any,
    accumulators: Any,
    py_files: Any,
    op_kwargs: Mapping[str, Any],
    session: Any = None,
) -> None:
    """Check the arguments of an operator, as far as they are known when the DAG is parsed.

    :raises InvalidArgumentError: if one of them is invalid.
    """
    if not callable(python_callable):
        raise InvalidArgumentError(f"python_callable is of type {type(python_callable).__name__}. Use a function.")
    if inspect.iscoroutinefunction(python_callable):
        raise InvalidArgumentError(
            f"{python_callable.__name__} is an async function, and Spark Connect blocks. Define it with `def`."
        )
    names = inspect.signature(python_callable).parameters
    if given := [name for name in INJECTED if name in op_kwargs]:
        raise InvalidArgumentError(
            f"The argument {given[0]!r} of {python_callable.__name__} is set by the operator. Remove it from the call."
        )
    if isinstance(py_files, str):
        raise InvalidArgumentError(f"py_files={py_files!r} is a string. Use a list: [{py_files!r}].")
    if isinstance(environment, (str, bytes, list, tuple)):
        raise InvalidArgumentError(
            f"environment is of type {type(environment).__name__}. Use an environment, for example "
            'VenvEnvironment(["pandas<3", "pyarrow"]), "inline", or the output of BuildEnvironmentOperator.'
        )
    if session is not None and py_files:
        raise InvalidArgumentError(
            "py_files and session can't be combined: files are sent to all tasks that share a session. Give py_files "
            "to the task that opens it."
        )
    if session is not None and accumulators is not None:
        raise InvalidArgumentError(
            "accumulators and session can't be combined: Spark may deliver the updates to another task that shares the "
            "session. Remove session, so that the task opens its own."
        )
    if accumulators is None:
        return
    if "accumulators" not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
        raise InvalidArgumentError(
            f"accumulators is set, but {python_callable.__name__} has no parameter `accumulators`. Add it."
        )
    # Templates and XComs are checked when the task runs.
    if isinstance(accumulators, Mapping):
        for name, value in accumulators.items():
            check_name(name)
            if value is None or (isinstance(value, (int, float, Collection)) and not isinstance(value, str)):
                to_kind(name, value)
    elif isinstance(accumulators, (int, float, Collection)) and not isinstance(accumulators, str):
        check_initial_values(accumulators)


def inline_environment(python_callable: Callable[..., Any]) -> VenvEnvironment:
    """Return the environment that the inline metadata (PEP 723) of the file with a function describes.

    :raises InvalidArgumentError: if it is not a function, or if its file has no valid metadata.
    """
    code = getattr(inspect.unwrap(python_callable), "__code__", None)
    if code is None:
        raise InvalidArgumentError(
            'environment="inline" needs a function, whose file has the metadata. Use VenvEnvironment.from_script().'
        )
    file = Path(code.co_filename).absolute()
    environment = VenvEnvironment.from_script(file, base_dir=file.parent)
    environment.inputs()
    return environment


def public_signature(python_callable: Callable[..., Any]) -> inspect.Signature:
    """Return the signature without the arguments that the operator sets."""
    signature = inspect.signature(python_callable)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in INJECTED])


def hide_injected(python_callable: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the public signature, against which Airflow checks the call in the DAG."""

    @functools.wraps(python_callable)
    def view(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("This function only has the signature of another. It is not called.")

    view.__signature__ = public_signature(python_callable)  # type: ignore[attr-defined]
    return view


def bind_arguments(
    python_callable: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any], context: Context
) -> inspect.BoundArguments:
    """Bind the arguments of a call and the variables of Airflow's context that the signature names."""
    context_merge(context, op_kwargs)
    kwargs = determine_kwargs(hide_injected(python_callable), op_args, context)
    return public_signature(python_callable).bind(*op_args, **kwargs)


def call(python_callable: Callable[..., Any], bound: inspect.BoundArguments, injected: Mapping[str, Any]) -> Any:
    """Call with the bound arguments and with those of `injected` that the signature names."""
    signature = inspect.signature(python_callable)
    named = {name: value for name, value in injected.items() if name in signature.parameters}
    whole = inspect.BoundArguments(signature, {**bound.arguments, **named})
    whole.apply_defaults()
    return python_callable(*whole.args, **whole.kwargs)


def check_result(result: Any, *, multiple_outputs: bool, reserved: Sequence[str] = ("accumulators",)) -> None:
    """Check that the return value of a callable can be pushed to XCom.

    :raises SessionError: if it can't. The message contains what to return instead.
    """
    kind = type(result)
    if kind.__module__.startswith("pyspark."):
        raise SessionError(
            f"The callable returned a {kind.__name__}, which can't be used after its session is closed. Return data "
            "(`.count()`, `.toPandas().to_dict()`), or write it and return its location."
        )
    if multiple_outputs and isinstance(result, Mapping) and (taken := set(result) & set(reserved)):
        raise SessionError(f"The callable returned the key {taken.pop()!r}, which the operator sets. Rename it.")
    from airflow.sdk.bases.xcom import BaseXCom

    try:
        BaseXCom.serialize_value(result)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SessionError(
            f"The callable returned a {kind.__name__} that can't be pushed to XCom: {error}. Return numbers, strings, "
            "lists or dicts of them, or write the value and return its location."
        ) from error
