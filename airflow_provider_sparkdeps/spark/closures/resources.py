"""Recognizes objects that belong to one process and can't be sent to executors: sessions, locks, files, ..."""

from __future__ import annotations

import copyreg
import io
import sys
import threading
from dataclasses import dataclass
from typing import Any

_PICKLING_METHODS = ("__reduce__", "__reduce_ex__", "__getstate__")
_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.local,
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
)
# Class name -> the packages that it may come from. Names, so that nothing has to be imported.
_CLASSES = {
    "SparkSession": ("pyspark.sql",),
    "SparkContext": ("pyspark.core", "pyspark.context"),
    "DataFrame": ("pyspark.sql",),
    "RDD": ("pyspark.core", "pyspark.rdd"),
    "Broadcast": ("pyspark.core", "pyspark.broadcast"),
    "Column": ("pyspark.sql",),
    "socket": ("socket",),
    "Connection": ("sqlite3", "psycopg", "psycopg2", "pymysql", "mysql", "pyodbc", "oracledb", "sqlalchemy", "MySQLdb"),
    "connection": ("psycopg2",),
    "Cursor": ("sqlite3", "psycopg", "pymysql", "pyodbc", "oracledb"),
    "Engine": ("sqlalchemy",),
    "Executor": ("concurrent.futures",),
    "Popen": ("subprocess",),
}
SESSION_BOUND = ("SparkSession", "DataFrame")
"""Kinds that PySpark pickles by name, and that can be unpickled only where the session is open."""
_DESCRIPTIONS = {
    "socket": "a socket",
    "Connection": "a database connection",
    "connection": "a database connection",
    "Cursor": "a database cursor",
    "Engine": "a database engine",
    "Executor": "a pool of workers",
    "Popen": "a process",
    "RDD": "an RDD",
}


@dataclass(frozen=True)
class Resource:
    """Something that belongs to this process and can't be used on executors.

    :param kind: for example "SparkSession", "lock" or "file".
    :param name: the kind with its article, in plain words.
    """

    kind: str
    name: str


def resource_of(value: Any) -> Resource | None:
    """Return what a value is if it belongs to this process; None for all other values."""
    kind = type(value)
    if isinstance(value, io.IOBase) and kind.__module__ in ("_io", "io", "tempfile"):
        in_memory = isinstance(value, (io.BytesIO, io.StringIO)) or value in (sys.stdout, sys.stderr)
        return None if in_memory else Resource("file", "an open file")
    for base in kind.__mro__:
        if base is threading.Thread:
            return Resource("thread", "a thread")
        if base in _LOCKS:
            return Resource("lock", "a lock")
        packages = _CLASSES.get(base.__name__, ())
        if any(base.__module__ == package or base.__module__.startswith(f"{package}.") for package in packages):
            return Resource(base.__name__, _DESCRIPTIONS.get(base.__name__, f"a {base.__name__}"))
        # The class defines how its objects are pickled.
        if base in copyreg.dispatch_table or any(name in base.__dict__ for name in _PICKLING_METHODS):
            return None
    return None
