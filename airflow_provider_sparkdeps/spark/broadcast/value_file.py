"""Writes a value to a file that executors can map: its pickle, then its buffers as they are in memory."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CellType, FunctionType
from typing import IO, Any

from airflow_provider_sparkdeps.exceptions import NotPicklableError
from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.broadcast.executor import ALIGNMENT, MAGIC
from airflow_provider_sparkdeps.spark.closures.resources import SESSION_BOUND, resource_of
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.text import first_line

# Limits of the search for what can't be pickled: parts of one object, and seconds.
_MAX_PARTS = 10_000
_SEARCH_TIMEOUT = 10.0


class ValueFile:
    """A value as a file. It is pickled and hashed when this is created; buffers are written only by `write`.

    The memory of numpy, Arrow and pandas is hashed and written in place, without a copy.

    :param path: of the file.
    :raises NotPicklableError: if the value can't be pickled. The message names the part of it that can't.
    :raises OSError: if the file can't be written.
    """

    def __init__(self, value: Any, path: Path) -> None:
        self._path = path
        buffers: list[pickle.PickleBuffer] = []
        with path.open("wb") as file:
            out = _HashingFile(file)
            try:
                _pickler(out, buffers).dump(value)
            except Exception as error:
                if error is out.failure:
                    raise
                name, part, cause = _unpicklable_part(value, error)
                described = _describe(part)
                join = " For a broadcast join, import `broadcast` from pyspark.sql.functions under another name."
                raise NotPicklableError(
                    f"The value to broadcast can't be pickled: {name} is {described} ({cause}). Broadcast only what "
                    f"UDFs need of it, e.g. arrays, numbers and strings.{join if described == 'a DataFrame' else ''}"
                ) from error
        self._rest: list[Any] = list(_after_pickle(out.size, [buffer.raw() for buffer in buffers]))
        for block in self._rest:
            out.sha256.update(block)
        self.sha256 = out.sha256.hexdigest()
        """Of the whole file."""
        self.size = out.size + sum(memoryview(block).nbytes for block in self._rest)
        """Of the whole file, in bytes."""

    def write(self) -> Path:
        """Write what is not yet written, and return the path of the file.

        :raises OSError: if it can't be written.
        """
        rest, self._rest = self._rest, []
        with self._path.open("ab") as file:
            file.writelines(rest)
        return self._path


def _after_pickle(length: int, buffers: list[memoryview]) -> Iterator[Any]:
    """Yield what follows a pickle of this length in the file."""
    at = length
    for buffer in buffers:
        yield bytes(-at % ALIGNMENT)
        yield buffer
        at += -at % ALIGNMENT + buffer.nbytes
    yield struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    yield struct.pack("<QQ8s", len(buffers), length, MAGIC)


class _HashingFile:
    """A file that computes the sha256 and the size of what is written to it."""

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


def _pickler(file: Any, buffers: list[pickle.PickleBuffer]) -> Any:
    from pyspark import cloudpickle

    pickler: Any = cloudpickle.CloudPickler
    # Checked once for each type, because this is called for each object.
    allowed: set[type] = set()

    class Pickler(pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) not in allowed:
                resource = resource_of(obj)
                if isinstance(obj, (Accumulator, Session)) or (resource and resource.kind in SESSION_BOUND):
                    raise pickle.PicklingError("it can be used only in the task's callable, not on executors")
                allowed.add(type(obj))
            return super().reducer_override(obj)

    return Pickler(file, protocol=5, buffer_callback=buffers.append)


def _task_only(obj: Any) -> str | None:
    """Return the name of an object that executors can't use, e.g. "a DataFrame"; None for all others."""
    if isinstance(obj, (Accumulator, Session)):
        return "an accumulator" if isinstance(obj, Accumulator) else "a Session"
    resource = resource_of(obj)
    return resource.name if resource and resource.kind != "Column" else None


def _describe(part: Any) -> str:
    return _task_only(part) or f"a {type(part).__module__}.{type(part).__qualname__}".replace("a builtins.", "a ")


def _unpicklable_part(value: Any, error: Exception) -> tuple[str, Any, str]:
    """Return the innermost part that can't be pickled: its name, itself, and why."""
    deadline = time.monotonic() + _SEARCH_TIMEOUT
    path, seen = "value", {id(value)}
    while time.monotonic() < deadline and not _task_only(value):
        for name, part in _parts(value):
            if id(part) not in seen and (found := _pickling_error(part)):
                seen.add(id(part))
                path, value, error = path + name, part, found
                break
        else:
            break
    return path, value, first_line(error)


def _pickling_error(part: Any) -> Exception | None:
    try:
        with Path(os.devnull).open("wb") as file:
            _pickler(file, []).dump(part)
    except Exception as error:  # noqa: BLE001 (the user's classes may raise any exception)
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value consists of, with a name. Unlike `ClosureWalker`, this enters all elements of containers."""
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
    yield from found[:_MAX_PARTS]
