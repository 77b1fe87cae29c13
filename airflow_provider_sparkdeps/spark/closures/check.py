"""Checks the UDFs of a task before its callable runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.closures.bytecode import read_code
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import LARGE, Finding, GlobalWriters
from airflow_provider_sparkdeps.spark.closures.report import make_report
from airflow_provider_sparkdeps.spark.closures.udf_calls import ExecutorFunction, closure_of, executor_functions
from airflow_provider_sparkdeps.spark.closures.walker import ClosureWalker, is_udf, unwrap

log = logging.getLogger(__name__)

# Bytes. Larger functions are refused when they are sent.
_LIMIT = 128 << 20
# A callable that calls one of these gives executors modules that are not known beforehand.
_DELIVERY_CALLS = frozenset(("addArtifact", "addArtifacts", "addPyFile", "add_py_files", "attach", "detach"))


def check_udfs(function: Callable[..., Any], modules: ExecutorModules) -> list[Finding]:
    """Check the functions that a task's callable will send to executors, where its source shows them.

    :param function: the callable. What it runs on the worker is not checked.
    :param modules: what executors have.
    :return: what may fail or is likely a mistake, each problem once.
    :raises SessionError: if something is certain to fail.
    """
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


def _check(function: FunctionType, modules: ExecutorModules) -> list[Finding]:
    if _DELIVERY_CALLS & _names(function.__code__):
        modules = ExecutorModules()
    found: dict[tuple[str, str], Finding] = {}
    for each in [*executor_functions(function), *_module_udfs(function)]:
        for finding in _findings(each, function, modules):
            if finding.level == "error" and each.certain:
                raise SessionError(f"UDFs of this task can't run on executors: {finding}")
            found.setdefault((finding.name, finding.problem), replace(finding, level="warning"))
    return list(found.values())


def _module_udfs(function: FunctionType) -> list[ExecutorFunction]:
    """Return the UDFs at module level that the callable may use."""
    names = read_code(function.__code__).globals
    values = [(name, function.__globals__[name]) for name in names if name in function.__globals__]
    return [ExecutorFunction(name, None, value, False) for name, value in values if is_udf(value)]


def _findings(each: ExecutorFunction, function: FunctionType, modules: ExecutorModules) -> list[Finding]:
    walk = ClosureWalker()
    if each.code is None:
        walk.start(each.function)
    else:
        walk.start_code(each.code, function.__globals__, closure_of(function))
    report = make_report(None, walk, modules, name=each.name, large=LARGE, limit=_LIMIT)
    writers = GlobalWriters()
    stores = read_code(function.__code__).stores
    kept = []
    for finding in report.findings:
        setters = [writer for walked in walk.functions for writer in writers.of(walked.globals, finding.name)]
        # The callable may set the global to another value before a query runs.
        changes = finding.name in stores or any(_reaches(function, setter) for setter in setters)
        if finding.level != "note" and not changes:
            kept.append(finding)
    return kept


def _reaches(function: FunctionType, target: FunctionType) -> bool:
    """Return whether a function may call another function of its module, also through other functions of it."""
    waiting, seen = [function], {id(function)}
    while waiting:
        each = waiting.pop()
        for name in read_code(each.__code__).globals:
            value = unwrap(each.__globals__.get(name))
            if value is target:
                return True
            if isinstance(value, FunctionType) and value.__module__ == target.__module__ and id(value) not in seen:
                seen.add(id(value))
                waiting.append(value)
    return False


def _names(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(_names(const) for const in code.co_consts if isinstance(const, CodeType)))
