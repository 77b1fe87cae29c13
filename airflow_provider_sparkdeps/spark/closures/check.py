"""Checks the UDFs of a task before its callable runs, and explains why a function can't be pickled."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import replace
from types import CodeType, FunctionType, MethodType
from typing import Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.closures.bytecode import read_code
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import FIXES, LARGE, Finding, GlobalWriters
from airflow_provider_sparkdeps.spark.closures.report import ClosureReport, make_report
from airflow_provider_sparkdeps.spark.closures.resources import SESSION_BOUND, resource_of
from airflow_provider_sparkdeps.spark.closures.udf_calls import ExecutorFunction, executor_functions
from airflow_provider_sparkdeps.spark.closures.unpickling import unpickling_errors
from airflow_provider_sparkdeps.spark.closures.walker import ClosureWalker, is_udf, name_of, unwrap

log = logging.getLogger(__name__)

# Bytes. Larger functions are refused when they are sent.
_LIMIT = 128 << 20
# Code that has one of these names gives executors modules that are not known beforehand.
_DELIVERY_NAMES = frozenset(
    ("addArtifact", "addArtifacts", "addPyFile", "add_py_files", "attach", "detach", "addsitedir", "subprocess")
)


def check_udfs(function: Callable[..., Any], modules: ExecutorModules) -> list[Finding]:
    """Check the functions that a task's callable will send to executors, where its source shows them.

    Each is pickled as Spark Connect will pickle it. If that fails, and the callable does nothing that may prevent it,
    the task fails before its callable runs.

    :param function: the callable, also as a partial or an object. What it runs on the worker is not checked.
    :param modules: what executors have.
    :return: what may fail or is likely a mistake, each problem once.
    :raises SessionError: if something is certain to fail.
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
    except SessionError:
        raise
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
    walk = ClosureWalker()
    walk.start(function)
    for finding in make_report(function, walk, ExecutorModules(), large=LARGE, limit=_LIMIT).findings:
        if finding.level == "error":
            return SessionError(f"A function could not be sent to executors: {finding}")
    return None


def _check(function: FunctionType, modules: ExecutorModules) -> list[Finding]:
    reached = _reached(function)
    if any(_delivers(each.__code__) for each in reached):
        modules = ExecutorModules()
    found: dict[tuple[str, str], Finding] = {}
    pickled: list[ExecutorFunction] = []
    for each in [*executor_functions(function), *_module_udfs(function)]:
        report, findings = _inspect(each, function, reached, modules)
        _add([*findings, *each.findings], found, certain=each.certain)
        if report.size is not None and not report.more:
            pickled.append(each)
    for each, error in zip(pickled, unpickling_errors([each.function for each in pickled]), strict=True):
        if error:
            _add([_unpickling_finding(each.function, error)], found, certain=each.certain)
    return list(found.values())


def _add(findings: list[Finding], found: dict[tuple[str, str], Finding], *, certain: bool) -> None:
    for finding in findings:
        if finding.level == "error" and certain:
            raise SessionError(f"UDFs of this task can't run on executors: {finding}")
        found.setdefault((finding.name, finding.problem), replace(finding, level="warning"))


def _unpickling_finding(function: Any, error: str) -> Finding:
    """Return what keeps a function from being unpickled: the innermost variable that can't be, or the function."""
    walk = ClosureWalker()
    walk.start(function)
    captures = [each for each in walk.captures if each.kind not in ("code", "function")]
    fix = "Change how it is pickled (`__reduce__`), or create it inside the function."
    name = owner = name_of(function)
    # Inner values come later in the list.
    for each, reason in zip(captures, unpickling_errors([each.value for each in captures]), strict=True):
        if reason:
            name, owner, error = each.name, " -> ".join(each.owner), reason
            resource = resource_of(each.value)
            fix = FIXES[resource.kind] if resource and resource.kind in SESSION_BOUND else fix
    return Finding("error", name, owner, f"can be pickled, but not unpickled on executors ({error})", fix)


def _module_udfs(function: FunctionType) -> list[ExecutorFunction]:
    """Return the UDFs at module level that the callable may use."""
    names = read_code(function.__code__).globals
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    return [ExecutorFunction(unwrap(value), False) for value in values if is_udf(value)]


def _inspect(
    each: ExecutorFunction, function: FunctionType, reached: list[FunctionType], modules: ExecutorModules
) -> tuple[ClosureReport, list[Finding]]:
    walk = ClosureWalker()
    walk.start(each.function)
    if any(_delivers(walked.code) for walked in walk.functions):
        modules = ExecutorModules()
    report = make_report(each.function, walk, modules, large=LARGE, limit=_LIMIT)
    writers = GlobalWriters()
    stores = read_code(function.__code__).stores
    kept = []
    for finding in report.findings:
        setters = [writer for walked in walk.functions for writer in writers.of(walked.globals, finding.name)]
        # The callable may set the global to another value before a query runs.
        if finding.level != "note" and finding.name not in stores and not any(setter in reached for setter in setters):
            kept.append(finding)
    return report, kept


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
