"""Writes a value as one file that executors can map: its pickle, then its buffers as they are in memory."""

from __future__ import annotations

import hashlib
import pickle
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CellType, FunctionType
from typing import IO, Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.broadcast.executor import ALIGNMENT, MAGIC

# What lives in this process only, though some of it can be pickled.
_HERE_ONLY = {
    "SparkSession": "a SparkSession",
    "SparkContext": "a SparkContext",
    "DataFrame": "a DataFrame",
    "Accumulator": "an accumulator",
    "Session": "a Session",
}
# Bounds of the search for what can't be pickled: parts of one thing, and seconds.
_MOST_PARTS = 10_000
_SEARCH = 10.0


class ValueFile:
    """A value as a file: pickled and hashed at once, while its buffers are written only when the file is wanted.

    The memory of numpy, Arrow and pandas is hashed and written from where it is, without a copy.

    :param path: where the file goes.
    :raises InvalidArgumentError: the value can't be pickled; the message names the part of it that can't.
    :raises OSError: the file can't be written.
    """

    def __init__(self, value: Any, path: Path) -> None:
        self._path = path
        buffers: list[pickle.PickleBuffer] = []
        with path.open("wb") as file:
            out = _Hashing(file)
            try:
                _pickler(out, buffers).dump(value)
            except Exception as error:
                if error is out.failure:
                    raise
                culprit, part, cause = _culprit(value, error)
                raise InvalidArgumentError(
                    f"the value to broadcast can't be pickled: {culprit} is {_called(part)} ({cause}): broadcast only "
                    "what UDFs need of it, such as arrays and plain data"
                ) from error
        self._rest: list[Any] = list(_rest(out.size, [buffer.raw() for buffer in buffers]))
        for block in self._rest:
            out.sha256.update(block)
        self.sha256 = out.sha256.hexdigest()
        """Of the whole file."""
        self.size = out.size + sum(memoryview(block).nbytes for block in self._rest)
        """Of the whole file, in bytes."""

    def complete(self) -> Path:
        """Write what is still to be written, and return the file.

        :raises OSError: it can't be written.
        """
        rest, self._rest = self._rest, []
        with self._path.open("ab") as file:
            file.writelines(rest)
        return self._path


def _rest(length: int, buffers: list[memoryview]) -> Iterator[Any]:
    """Give what comes after the pickle, whose length this is."""
    at = length
    for buffer in buffers:
        yield bytes(-at % ALIGNMENT)
        yield buffer
        at += -at % ALIGNMENT + buffer.nbytes
    yield struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    yield struct.pack("<QQ8s", len(buffers), length, MAGIC)


class _Hashing:
    """A file that knows the sha256 and the size of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.failure = error
            raise
        self.sha256.update(data)
        written = memoryview(data).nbytes
        self.size += written
        return written


class _Nowhere:
    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def _pickler(file: Any, buffers: list[pickle.PickleBuffer]) -> Any:
    from pyspark import cloudpickle

    by_value: Any = cloudpickle.CloudPickler

    class Pickler(by_value):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if _here_only(obj):
                raise pickle.PicklingError("it stays with the task's callable, and is of no use on executors")
            return super().reducer_override(obj)

    return Pickler(file, protocol=5, buffer_callback=buffers.append)


def _here_only(obj: Any) -> str | None:
    kind = type(obj)
    if not kind.__module__.startswith(("pyspark.", "airflow_provider_sparkdeps.spark.")):
        return None
    return next((_HERE_ONLY[base.__name__] for base in kind.__mro__ if base.__name__ in _HERE_ONLY), None)


def _called(part: Any) -> str:
    return _here_only(part) or f"a {type(part).__module__}.{type(part).__qualname__}".replace("a builtins.", "a ")


def _culprit(value: Any, error: Exception) -> tuple[str, Any, str]:
    """Find the innermost part that can't be pickled: its path, itself, and why."""
    deadline = time.monotonic() + _SEARCH
    path, seen = "value", {id(value)}
    while time.monotonic() < deadline and not _here_only(value):
        for name, part in _parts(value):
            if id(part) not in seen and (found := _failure(part)):
                seen.add(id(part))
                path, value, error = path + name, part, found
                break
        else:
            break
    return path, value, f"{error}".strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _failure(part: Any) -> Exception | None:
    try:
        _pickler(_Nowhere(), []).dump(part)
    except Exception as error:  # noqa: BLE001 (of any kind, as it comes from the user's classes)
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        found += [(f"[{key!r}]", part) for key, part in value.items()]
        found += [(f" key {key!r}", key) for key in value]
    elif isinstance(value, (list, tuple)):
        found += [(f"[{index}]", part) for index, part in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        found += [(" element", part) for part in value]
    found += [
        (f".{name}", part) for name, part in getattr(value, "__dict__", {}).items() if not isinstance(value, type)
    ]
    if isinstance(value, FunctionType):
        code, cells = value.__code__, value.__closure__ or ()
        filled = [(name, cell) for name, cell in zip(code.co_freevars, cells, strict=True) if cell != CellType()]
        found += [(f" variable {name!r}", cell.cell_contents) for name, cell in filled]
        found += [(f" global {name!r}", value.__globals__[name]) for name in code.co_names if name in value.__globals__]
    yield from found[:_MOST_PARTS]
