"""Warns about the UDFs of a task before its callable runs, and explains why a function could not be pickled."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.closures.bytecode import read_code
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import LARGE, Finding, GlobalWriters, find_problems
from airflow_provider_sparkdeps.spark.closures.pickled_size import Size, is_by_reference, module_of
from airflow_provider_sparkdeps.spark.closures.report import make_report
from airflow_provider_sparkdeps.spark.closures.resources import SESSION_BOUND, resource_of
from airflow_provider_sparkdeps.spark.closures.udf_calls import ExecutorFunction, executor_functions
from airflow_provider_sparkdeps.spark.closures.walker import CapturedValue, ClosureWalker, is_udf, name_of, unwrap

log = logging.getLogger(__name__)

# Bytes. Larger functions are refused when they are sent.
_LIMIT = 128 << 20
# Code that has one of these names gives executors modules that are not known beforehand.
_DELIVERY_NAMES = frozenset(
    ("addArtifact", "addArtifacts", "addPyFile", "add_py_files", "attach", "detach", "addsitedir", "subprocess")
)


def check_udfs(function: Callable[..., Any], modules: ExecutorModules) -> list[Finding]:
    """Check the functions that a task's callable may send to executors, where its source shows them.

    Nothing is pickled or changed. What can't be known before the callable runs is decided when a function is sent: by
    then the callable may have set other values or sent modules, or may not use the function.

    :param function: the callable, also as a partial or an object. What it runs on the worker is not checked.
    :param modules: what executors have.
    :return: what may fail or is likely a mistake, each problem once.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, (FunctionType, MethodType)):
        function = function.__call__  # type: ignore[operator]
    function = getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        return []
    try:
        return _check(function, modules)
    except Exception:
        # Users' objects may raise anything when they are inspected, and the task may work nevertheless.
        log.debug("Could not check the functions of %s.", function.__name__, exc_info=True)
        return []


def explain_pickling_error(error: BaseException) -> SessionError | None:
    """Return an error that names what could not be pickled when a function was sent; None if it is not known."""
    if isinstance(error, SessionError):
        return None  # It says all.
    trace, sent = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_qualname == "CloudPickleSerializer.dumps":
            sent = trace.tb_frame.f_locals.get("obj")
        trace = trace.tb_next
    # PySpark pickles the function of a UDF with its return type.
    function = sent[0] if isinstance(sent, tuple) and sent else sent
    if not callable(function):
        return None
    try:
        walk = ClosureWalker()
        walk.start(function)
        findings = make_report(function, walk, ExecutorModules(), large=LARGE, limit=_LIMIT).findings
    except Exception:
        log.debug("Could not explain why %s can't be pickled.", function, exc_info=True)
        return None
    problems = [finding for finding in findings if finding.level == "error"]
    return SessionError(f"A function could not be sent to executors: {problems[0]}") if problems else None


def _check(function: FunctionType, modules: ExecutorModules) -> list[Finding]:
    reached = _reached(function)
    if any(_delivers(each.__code__) for each in reached):
        modules = ExecutorModules()
    found: dict[tuple[str, str], Finding] = {}
    for each in [*executor_functions(function), *_module_udfs(function)]:
        for finding in [*_inspect(each.function, function, reached, modules), *each.findings]:
            found.setdefault((finding.name, finding.problem), replace(finding, level="warning"))
    return list(found.values())


def _module_udfs(function: FunctionType) -> list[ExecutorFunction]:
    """Return the UDFs at module level that the callable may use."""
    names = read_code(function.__code__).globals
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    return [ExecutorFunction(unwrap(value)) for value in values if is_udf(value)]


def _inspect(
    sent: Any, function: FunctionType, reached: list[FunctionType], modules: ExecutorModules
) -> Iterator[Finding]:
    walk = ClosureWalker()
    walk.start(sent)
    if any(_delivers(walked.code) for walked in walk.functions):
        modules = ExecutorModules()
    writers = GlobalWriters()
    stores = read_code(function.__code__).stores
    sizes = [(each, _unmeasured(each)) for each in walk.captures]
    for finding in find_problems(walk, Size(0), sizes, modules, name=name_of(sent), large=LARGE):
        setters = [writer for walked in walk.functions for writer in writers.of(walked.globals, finding.name)]
        # The callable may set the global to another value before a query runs.
        if finding.level != "note" and finding.name not in stores and not any(setter in reached for setter in setters):
            yield finding


def _unmeasured(capture: CapturedValue) -> Size:
    """Return what is known of a value without pickling it, which would run users' code."""
    resource = resource_of(capture.value)
    if resource and resource.kind not in (*SESSION_BOUND, "Column"):
        return Size(None, error=f"it is {resource.name}", culprit=capture.value)
    value, named = capture.value, [capture.value] if capture.by_reference else []
    if isinstance(value, ModuleType) and not capture.by_reference:
        # A module of the DAG is pickled with all its globals.
        inner = [each for each in vars(value).values() if isinstance(each, (ModuleType, FunctionType, type))]
        named = [each for each in inner if is_by_reference(each)]
    return Size(0, references=frozenset(filter(None, map(module_of, named))))


def _reached(function: FunctionType) -> list[FunctionType]:
    """Return a function and the functions of its module that it may call, also through other functions of it."""
    found = [function]
    for each in found:
        for name in read_code(each.__code__).globals:
            value = unwrap(each.__globals__.get(name))
            if isinstance(value, FunctionType) and value.__module__ == function.__module__ and value not in found:
                found.append(value)
    return found


def _delivers(code: CodeType) -> bool:
    """Return whether code may add to the modules that executors can import."""
    nested = [const for const in code.co_consts if isinstance(const, CodeType)]
    names = {*code.co_names}
    changes_modules = "sys" in names and names & {"path", "modules"}
    return bool(_DELIVERY_NAMES & names or changes_modules) or any(map(_delivers, nested))
