"""How large a value is once pickled for executors, and what it refers to; no copy of it is made."""

from __future__ import annotations

import copyreg
import io
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from airflow_provider_sparkdeps.spark.pyspark_compat import is_pickled_by_reference
from airflow_provider_sparkdeps.utils.text import first_line

# Bytes. Nothing that is larger can be sent, so that there is no use in going on.
MAX_MEASURED = 1 << 30

_PICKLING = ("__reduce__", "__reduce_ex__", "__getstate__")
_THREADING = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Thread,
    threading.local,
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
)
# By the module and name of a class or one that it is derived from, so that none of these has to be imported.
_KINDS = {
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
_NAMES = {
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
    """Something that belongs to this process, and is of no use on executors.

    :param kind: such as "SparkSession", "lock", "file".
    :param name: the same with its article.
    """

    kind: str
    name: str


@dataclass(frozen=True)
class Size:
    """What came of pickling a value.

    :param bytes: None if it can't be pickled.
    :param more: it is larger than that: the measuring stopped there.
    :param error: why it can't be pickled.
    :param resource: what was found in it that can't travel.
    :param references: modules that are imported when it is unpickled.
    """

    bytes: int | None
    more: bool = False
    error: str | None = None
    resource: Resource | None = None
    references: frozenset[str] = frozenset()


def resource_of(value: Any) -> Resource | None:
    """Say whether a value is of this process and can't travel; None for all else."""
    kind = type(value)
    if isinstance(value, io.IOBase) and kind.__module__ in ("_io", "io", "tempfile"):
        in_memory = isinstance(value, (io.BytesIO, io.StringIO)) or value in (sys.stdout, sys.stderr)
        return None if in_memory else Resource("file", "an open file")
    for each in kind.__mro__:
        if each in _THREADING:
            return Resource("thread", "a thread") if each is threading.Thread else Resource("lock", "a lock")
        modules = _KINDS.get(each.__name__, ())
        if any(each.__module__ == module or each.__module__.startswith(f"{module}.") for module in modules):
            return Resource(each.__name__, _NAMES.get(each.__name__, f"a {each.__name__}"))
        # Somebody has said how these travel.
        if each in copyreg.dispatch_table or any(name in each.__dict__ for name in _PICKLING):
            return None
    return None


def measure(value: Any, *, limit: int = MAX_MEASURED, known: Mapping[int, Size] | None = None) -> Size:
    """Pickle a value as PySpark pickles functions, and count instead of keeping.

    :param limit: bytes after which to stop.
    :param known: sizes of values that may be in it, by `id`, which are not pickled again.
    """
    counter = _Counter(limit)
    pickler = _pickler(counter, known)
    try:
        pickler.dump(value)
    except _Enough:
        return Size(counter.bytes, more=True, references=frozenset(pickler.references))
    except _Found as found:
        return Size(None, error=f"it holds {found.resource.name}", resource=found.resource)
    except Exception as error:  # noqa: BLE001 (pickling runs anybody's code, and what it raises is the finding)
        return Size(None, error=first_line(error))
    return Size(counter.bytes, more=pickler.more, references=frozenset(pickler.references))


def travels_by_reference(value: Any) -> bool:
    """Whether a function, class or module is pickled as its module's name and its own; cloudpickle's own decision."""
    if not isinstance(value, (ModuleType, FunctionType, type)):
        return _is_pickled_by_name(value)
    return is_pickled_by_reference(value)


class _Enough(Exception):
    pass


class _Found(Exception):
    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.name)
        self.resource = resource


class _Counter:
    """A file that keeps nothing."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        self._limit = limit

    def write(self, data: Any) -> int:
        # Arrays come as views of where they are: nothing is copied to be counted.
        self.add(size := memoryview(data).nbytes)
        return size

    def add(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._limit:
            raise _Enough


def _pickler(counter: _Counter, known: Mapping[int, Size] | None) -> Any:
    from pyspark import cloudpickle

    pickler: Any = cloudpickle.Pickler

    class Measuring(pickler):  # type: ignore[misc]
        more: bool = False

        def __init__(self) -> None:
            super().__init__(counter, protocol=5)
            self.references: set[str] = set()

        def reducer_override(self, obj: Any) -> Any:
            resource = resource_of(obj)
            if resource and resource.kind != "Column":
                raise _Found(resource)
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                module = _module_of(obj)
                if module:
                    self.references.add(module)
            return reduced

    if known is None:
        return Measuring()
    # Called for each and every object, which is slow: only where what is large is known.
    return _with_known(Measuring, counter, known)()


def _with_known(measuring: Any, counter: _Counter, known: Mapping[int, Size]) -> Callable[[], Any]:
    class Skipping(measuring):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._counted: set[int] = set()

        def persistent_id(self, obj: Any) -> str | None:
            size = known.get(id(obj))
            if size is None:
                return None
            if id(obj) not in self._counted:
                self._counted.add(id(obj))
                self.more: bool = self.more or size.more
                self.references |= size.references
                counter.add(size.bytes or 0)
            return ""

    return Skipping


def _module_of(obj: Any) -> str | None:
    """The module that an object is imported from where it is unpickled, if it travels by reference."""
    if isinstance(obj, ModuleType):
        return obj.__name__ if travels_by_reference(obj) else None
    if not isinstance(obj, (type, FunctionType)) and not _is_pickled_by_name(obj):
        return None
    module = getattr(obj, "__module__", None) or type(obj).__module__
    return module if isinstance(module, str) else None


def _is_pickled_by_name(obj: Any) -> bool:
    """Whether an object of native code, such as `math.sqrt`, says that it is to be had by its name."""
    if not callable(obj) or isinstance(obj, MethodType) or not isinstance(getattr(obj, "__name__", None), str):
        return False
    try:
        return isinstance(obj.__reduce_ex__(5), str)
    except Exception:  # noqa: BLE001 (what can't be pickled is told when it is)
        return False
