"""Finds, before a task's callable runs, what of its UDFs will fail or surprise on executors."""

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

# Bytes. What is larger is refused when it is sent.
_LIMIT = 128 << 20
# With these, a callable gives executors more than is known beforehand.
_DELIVERY_CALLS = frozenset(("addArtifact", "addArtifacts", "addPyFile", "add_py_files", "attach", "detach"))


def check_udfs(function: Callable[..., Any], modules: ExecutorModules) -> list[Finding]:
    """Look through what a task's callable will have executors run, as far as that can be told before it is called.

    :param function: the callable. What it runs itself, on the worker, is not looked at.
    :param modules: what executors have.
    :return: what may fail or surprise; each thing once.
    :raises SessionError: something is certain to fail; says what to do.
    """
    if not isinstance(function, FunctionType):
        return []
    try:
        return _check(function, modules)
    except SessionError:
        raise
    except Exception:
        # Values of users may do anything when they are looked at; their task may work all the same.
        log.debug("The functions of %s can't be looked through", function.__name__, exc_info=True)
        return []


def _check(function: FunctionType, modules: ExecutorModules) -> list[Finding]:
    if _DELIVERY_CALLS & _names(function.__code__):
        modules = ExecutorModules()
    found: dict[tuple[str, str], Finding] = {}
    for each in [*executor_functions(function), *_made_before(function)]:
        for finding in _findings(each, function, modules):
            if finding.level == "error" and each.certain:
                raise SessionError(f"UDFs of this task can't run on executors: {finding}")
            found.setdefault((finding.name, finding.fault), replace(finding, level="warning"))
    return list(found.values())


def _made_before(function: FunctionType) -> list[ExecutorFunction]:
    """UDFs at module level, which the callable may use."""
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
    setters = GlobalWriters()
    own = read_code(function.__code__).stores
    kept = []
    for finding in report.findings:
        sets = [setter for walked in walk.functions for setter in setters.of(walked.globals, finding.name)]
        # What is there now may be something else by the time that a query runs.
        changes = finding.name in own or any(_reaches(function, setter) for setter in sets)
        if finding.level != "note" and not changes:
            kept.append(finding)
    return kept


def _reaches(function: FunctionType, target: FunctionType) -> bool:
    """Whether a function may call another of its module, by way of others of it."""
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
