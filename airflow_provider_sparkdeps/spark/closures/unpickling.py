"""Unpickles functions as executors will: in a fresh interpreter, which has not imported the DAG."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.largest_variable import globals_of
from airflow_provider_sparkdeps.utils.processes import tool_environ

_TIMEOUT = 15.0
# What cloudpickle makes a function of. Only other objects run code of theirs when they are unpickled.
_PLAIN = frozenset(
    ("_make_function", "_function_setstate", "_make_cell", "_make_empty_cell", "_builtin_type", "subimport", "")
)
# Reads pickles with their lengths, and writes one line for each: empty, or why it can't be unpickled. Missing modules,
# files, environment variables and tasks say nothing about executors. What users' code prints goes to stderr.
_SCRIPT = """
import os, sys
from pyspark import SparkFiles, TaskContext, cloudpickle
def fail(*args):
    raise OSError("only executors have this")
TaskContext.get = SparkFiles.get = SparkFiles.getRootDirectory = fail
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
read = sys.stdin.buffer.read
while length := read(8):
    error = ""
    try:
        cloudpickle.loads(read(int.from_bytes(length, "big")))
    except (ImportError, OSError, KeyError):
        pass
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}".splitlines()[0]
    print(error, file=out, flush=True)
"""


def unpickling_errors(functions: Sequence[Any]) -> list[str]:
    """Return for each function that can be pickled why executors can't unpickle it; an empty string if they can.

    Only what needs nothing but PySpark and the standard library is tried: other packages on executors may differ from
    those of this process.

    :param functions: functions, or other values. What can't be pickled is not tried.
    """
    from pyspark import cloudpickle

    errors = [""] * len(functions)
    tried = {}
    for index, function in enumerate(functions):
        try:
            pickled = cloudpickle.dumps(function)
        except Exception:  # noqa: BLE001, S112 (users' classes raise anything)
            continue
        names = globals_of(pickled)
        plain = all(name in _PLAIN for _, name in names)
        if not plain and all(ExecutorModules.is_builtin(module) for module, _ in names):
            tried[index] = len(pickled).to_bytes(8, "big") + pickled
    if not tried:
        return errors
    try:
        with tempfile.TemporaryDirectory() as directory:
            run = subprocess.run(
                [sys.executable, "-c", _SCRIPT],
                input=b"".join(tried.values()),
                capture_output=True,
                cwd=directory,
                env=tool_environ(),
                timeout=_TIMEOUT,
                check=True,
            )
    except (OSError, subprocess.SubprocessError):
        return errors
    for index, line in zip(tried, run.stdout.decode(errors="replace").splitlines(), strict=False):
        errors[index] = line
    return errors
