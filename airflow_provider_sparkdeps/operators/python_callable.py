"""What a task's callable may look like, how it is called, and what it may return."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.definitions.context import context_merge

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_initial_values, check_name, to_kind

if TYPE_CHECKING:
    from airflow.sdk import Context

# What a callable gets beside its own arguments and Airflow's context, if its signature names it.
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
    """Check an operator's arguments as far as they are known when the DAG is parsed.

    :raises InvalidArgumentError: one of them can't be meant.
    """
    if not callable(python_callable):
        raise InvalidArgumentError(f"python_callable is a {type(python_callable).__name__}: give a function")
    if inspect.iscoroutinefunction(python_callable):
        raise InvalidArgumentError(
            f"{python_callable.__name__} is an async function: write `def`, since Spark Connect blocks"
        )
    names = inspect.signature(python_callable).parameters
    if given := [name for name in INJECTED if name in op_kwargs]:
        raise InvalidArgumentError(
            f"{given[0]!r} is given to {python_callable.__name__} by the operator: take it out of the call"
        )
    if isinstance(py_files, str):
        raise InvalidArgumentError(f"py_files is the text {py_files!r}: write a list, [{py_files!r}]")
    if isinstance(environment, (str, bytes, list, tuple)):
        raise InvalidArgumentError(
            f"environment is a {type(environment).__name__}: give an environment, such as "
            'VenvEnvironment(["pandas<3", "pyarrow"]), or the output of BuildEnvironmentOperator'
        )
    if session is not None and py_files:
        raise InvalidArgumentError(
            "py_files and session are given: files go to all who share a session; give them to the task that opens it"
        )
    if session is not None and accumulators is not None:
        raise InvalidArgumentError(
            "accumulators and session are given: Spark may send the updates to another task that shares the session. "
            "Give this task a session of its own (take session out)"
        )
    if accumulators is None:
        return
    if "accumulators" not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
        raise InvalidArgumentError(
            f"accumulators= is given, but {python_callable.__name__} has no parameter `accumulators` to get them by: "
            "add it"
        )
    # What may still be a template or an XCom is checked when the task runs.
    if isinstance(accumulators, Mapping):
        for name, value in accumulators.items():
            check_name(name)
            if value is None or (isinstance(value, (int, float, Collection)) and not isinstance(value, str)):
                to_kind(name, value)
    elif isinstance(accumulators, (int, float, Collection)) and not isinstance(accumulators, str):
        check_initial_values(accumulators)


def public_signature(python_callable: Callable[..., Any]) -> inspect.Signature:
    """Return the signature that a caller in the DAG sees: without what the operator adds."""
    signature = inspect.signature(python_callable)
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in INJECTED])


def hide_injected(python_callable: Callable[..., Any]) -> Callable[..., Any]:
    """Return a stand-in with the caller's signature, for Airflow's own checks of a call."""

    @functools.wraps(python_callable)
    def view(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a stand-in for its signature is not called")

    view.__signature__ = public_signature(python_callable)  # type: ignore[attr-defined]
    return view


def bind(
    python_callable: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any], context: Context
) -> inspect.BoundArguments:
    """Bind a call's arguments, and the variables of Airflow's context that the signature names."""
    context_merge(context, op_kwargs)
    kwargs = determine_kwargs(hide_injected(python_callable), op_args, context)
    return public_signature(python_callable).bind(*op_args, **kwargs)


def call(python_callable: Callable[..., Any], bound: inspect.BoundArguments, injected: Mapping[str, Any]) -> Any:
    """Call with the bound arguments, and with those of `injected` that the signature names."""
    signature = inspect.signature(python_callable)
    named = {name: value for name, value in injected.items() if name in signature.parameters}
    whole = inspect.BoundArguments(signature, {**bound.arguments, **named})
    whole.apply_defaults()
    return python_callable(*whole.args, **whole.kwargs)


def check_result(result: Any, *, multiple_outputs: bool, reserved: Sequence[str] = ("accumulators",)) -> None:
    """Check that a callable's return value can go to XCom.

    :raises SessionError: it can't; the message says what to return instead.
    """
    kind = type(result)
    if kind.__module__.startswith("pyspark."):
        raise SessionError(
            f"the callable returned a {kind.__name__}, which lives with its session, and that is closed: return plain "
            "data (`.count()`, `.toPandas().to_dict()`), or write it and return where it is"
        )
    if multiple_outputs and isinstance(result, Mapping) and (taken := set(result) & set(reserved)):
        raise SessionError(f"the callable returned the key {taken.pop()!r}, which the operator fills: rename it")
    from airflow.sdk.bases.xcom import BaseXCom

    try:
        BaseXCom.serialize_value(result)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SessionError(
            f"the callable returned a {kind.__name__} that XCom can't take ({error}): return plain data (numbers, "
            "texts, lists, dicts), or write it somewhere and return where it is"
        ) from error
