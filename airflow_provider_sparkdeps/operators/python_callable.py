"""Checks and calls the Python callable of a task."""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import determine_kwargs
from airflow.sdk.definitions.context import context_merge

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators.initial_values import check_initial_values, check_name, to_kind
from airflow_provider_sparkdeps.spark.closures.walker import name_of

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
    name = name_of(python_callable)
    if inspect.iscoroutinefunction(python_callable) or inspect.iscoroutinefunction(
        getattr(python_callable, "__call__", None)  # noqa: B004 (of an object)
    ):
        raise InvalidArgumentError(f"{name} is an async function, and Spark Connect blocks. Define it with `def`.")
    names = inspect.signature(python_callable).parameters
    if given := [name for name in INJECTED if name in op_kwargs]:
        raise InvalidArgumentError(
            f"The argument {given[0]!r} of {name} is set by the operator. Remove it from the call."
        )
    if isinstance(py_files, str) and not _is_template(py_files):
        raise InvalidArgumentError(f"py_files={py_files!r} is a string. Use a list: [{py_files!r}].")
    if isinstance(environment, (str, bytes, list, tuple)) and not _is_template(environment):
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
        raise InvalidArgumentError(f"accumulators is set, but {name} has no parameter `accumulators`. Add it.")
    # Templates and XComs are checked when the task runs.
    if isinstance(accumulators, str) and not _is_template(accumulators):
        check_initial_values(accumulators)
    elif isinstance(accumulators, Mapping):
        for key, value in accumulators.items():
            check_name(key)
            if value is None or (isinstance(value, (int, float, Collection)) and not isinstance(value, str)):
                to_kind(key, value)
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
    """Return a function that calls another, with the public signature, against which Airflow checks calls in the DAG.

    It has the globals of the callable, in which Airflow looks up annotations. For a callable object or a partial, it is
    what Airflow needs: a function with a name.
    """

    def calls(*args: Any, **kwargs: Any) -> Any:
        return python_callable(*args, **kwargs)

    named = python_callable
    while isinstance(named, functools.partial):
        named = named.func
    # The name becomes the id of the task.
    view = FunctionType(calls.__code__, getattr(named, "__globals__", {}), name_of(named), closure=calls.__closure__)
    functools.update_wrapper(view, named)
    view.__signature__ = public_signature(python_callable)  # type: ignore[attr-defined]
    view.hides = python_callable  # type: ignore[attr-defined]
    return view


def bind_arguments(
    python_callable: Callable[..., Any], op_args: Collection[Any], op_kwargs: Mapping[str, Any], context: Context
) -> inspect.BoundArguments:
    """Bind the arguments of a call and the variables of Airflow's context that the signature names."""
    context_merge(context, op_kwargs)
    kwargs = determine_kwargs(hide_injected(python_callable), op_args, context)
    return public_signature(python_callable).bind(*op_args, **kwargs)


def call(python_callable: Callable[..., Any], bound: inspect.BoundArguments, injected: Mapping[str, Any]) -> Any:
    """Call with the bound arguments and with those of `injected` that the signature names, or all if it has `**`."""
    signature = inspect.signature(python_callable)
    named = {name: value for name, value in injected.items() if name in signature.parameters}
    for each in signature.parameters.values():
        if each.kind is each.VAR_KEYWORD:
            others = {name: value for name, value in injected.items() if name not in named}
            named[each.name] = {**bound.arguments.get(each.name, {}), **others}
    whole = inspect.BoundArguments(signature, {**bound.arguments, **named})
    whole.apply_defaults()
    return python_callable(*whole.args, **whole.kwargs)


@contextmanager
def pickle_lazy_lists() -> Iterator[None]:
    """Pickle the results of a mapped upstream task, which Airflow fetches when they are used, as a list."""
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    kind: Any = LazyXComSequence
    copyreg.pickle(kind, lambda each: (list, (list(each),)))
    try:
        yield
    finally:
        copyreg.dispatch_table.pop(kind, None)


def check_result(result: Any, *, multiple_outputs: bool, reserved: Sequence[str] = ("accumulators",)) -> None:
    """Check that the return value of a callable can be pushed to XCom.

    :raises SessionError: if it can't. The message contains what to return instead.
    """
    kind = type(result)
    for part in _parts(result):
        if type(part).__name__ == "Row" and type(part).__module__.startswith("pyspark."):
            raise SessionError("The callable returned a Row, which can't be pushed to XCom. Return `row.asDict()`.")
        if type(part).__module__.startswith("pyspark."):
            where = "" if part is result else f" in a {kind.__name__}"
            raise SessionError(
                f"The callable returned a {type(part).__name__}{where}, which can't be used after its session is "
                "closed. Return data (`.count()`, `.toPandas().to_dict()`), or write it and return its location."
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


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value and what it contains, if it consists of dicts, lists, tuples and sets."""
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        yield each
        if type(each) in (dict, list, tuple, set, frozenset) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, dict) else each
