"""Pickles a value as PySpark does: whether that works, how large it is, and what it imports; makes no copy of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

from airflow_provider_sparkdeps.spark import pyspark_compat
from airflow_provider_sparkdeps.spark.closures.resources import resource_of
from airflow_provider_sparkdeps.utils.text import first_line

# Bytes. Nothing that is larger can be sent.
MAX_MEASURED = 1 << 30


@dataclass(frozen=True)
class Size:
    """The result of pickling a value.

    :param bytes: None if it can't be pickled.
    :param more: it is larger than `bytes`, where measuring stopped.
    :param error: why it can't be pickled.
    :param culprit: the part of it that can't be pickled; if a resource contains that part, the resource.
    :param references: modules that are imported when it is unpickled.
    """

    bytes: int | None
    more: bool = False
    error: str | None = None
    culprit: Any = None
    references: frozenset[str] = frozenset()


def measure(value: Any, *, limit: int = MAX_MEASURED, known: Mapping[int, Size] | None = None) -> Size:
    """Pickle a value as PySpark pickles functions, and count the bytes.

    :param limit: bytes after which to stop.
    :param known: sizes of values that may be in it, by `id`; these are not pickled again.
    """
    counter = ByteCounter(limit)
    pickler = _pickler(counter, known)
    try:
        pickler.dump(value)
    except _LimitReached:
        return Size(counter.bytes, more=True, references=frozenset(pickler.references))
    except Exception as error:  # noqa: BLE001 (pickling runs users' code, which may raise anything)
        return Size(None, error=first_line(error), culprit=pickler.culprit)
    return Size(counter.bytes, more=pickler.more, references=frozenset(pickler.references))


def is_by_reference(value: Any) -> bool:
    """Return whether a value is pickled by its name, and imported on executors."""
    if isinstance(value, (ModuleType, FunctionType, type)):
        return pyspark_compat.is_pickled_by_reference(value)
    return _is_pickled_by_name(value)


class _LimitReached(Exception):
    pass


class ByteCounter:
    """A file that counts what is written to it, and keeps nothing.

    :param limit: bytes after which writing raises an error.
    """

    def __init__(self, limit: float = float("inf")) -> None:
        self.bytes = 0
        self._limit = limit

    def write(self, data: Any) -> int:
        # Arrays are written as views of their memory, without a copy.
        self.add(size := memoryview(data).nbytes)
        return size

    def add(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._limit:
            raise _LimitReached


def _pickler(counter: ByteCounter, known: Mapping[int, Size] | None) -> Any:
    from pyspark import cloudpickle

    pickler: Any = cloudpickle.Pickler

    class Measuring(pickler):  # type: ignore[misc]
        more: bool = False
        # The last object that was asked for, or the first resource: what it consists of says less than it does.
        culprit: Any = None

        def __init__(self) -> None:
            super().__init__(counter, protocol=5)
            self.references: set[str] = set()

        def reducer_override(self, obj: Any) -> Any:
            if resource_of(self.culprit) is None:
                self.culprit = obj
            reduced = super().reducer_override(obj)
            if reduced is NotImplemented:
                module = module_of(obj)
                if module:
                    self.references.add(module)
            return reduced

    if known is None:
        return Measuring()
    # `persistent_id` is called for every object, which is slow: used only if there are known sizes.
    return _with_known(Measuring, counter, known)()


def _with_known(measuring: Any, counter: ByteCounter, known: Mapping[int, Size]) -> Callable[[], Any]:
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


def module_of(obj: Any) -> str | None:
    """Return the module that unpickling an object imports, if it is pickled by reference."""
    if isinstance(obj, ModuleType):
        return obj.__name__ if is_by_reference(obj) else None
    if not isinstance(obj, (type, FunctionType)) and not _is_pickled_by_name(obj):
        return None
    module = getattr(obj, "__module__", None) or type(obj).__module__
    return module if isinstance(module, str) else None


def _is_pickled_by_name(obj: Any) -> bool:
    """Return whether an object of native code (`math.sqrt`) is pickled by its name."""
    if not callable(obj) or isinstance(obj, MethodType) or not isinstance(getattr(obj, "__name__", None), str):
        return False
    try:
        return isinstance(pyspark_compat.reduced(obj), str)
    except Exception:  # noqa: BLE001 (whoever pickles it gets the error)
        return False
