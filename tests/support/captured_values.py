"""Values of all kinds that functions capture, and functions that capture them in all ways."""

from __future__ import annotations

import abc
import asyncio
import collections
import collections.abc
import contextvars
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import hashlib
import io
import itertools
import json
import logging
import operator
import os
import queue
import random
import re
import socket
import sqlite3
import struct
import threading
import types
import typing
import uuid
import weakref
import zlib
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, NewType, Protocol, TypedDict, TypeVar

import attrs
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic

T = TypeVar("T")
UserId = NewType("UserId", int)


class Target:
    """What weak references refer to."""

    def method(self) -> int:
        return 1


TARGET = Target()


def subclass_of(base: Any) -> Any:
    """Return a class with all methods that an abstract base class asks for."""
    methods: dict[str, Any] = {name: lambda self, *args: 0 for name in getattr(base, "__abstractmethods__", ())}
    if base in ABSTRACT:
        methods["__init__"] = lambda self: None
    return types.new_class(f"My{base.__name__}", (base,), exec_body=lambda body: body.update(methods))


class HasName(Protocol):
    def name(self) -> str: ...


class Named(HasName):
    def name(self) -> str:
        return "a"


class Box(Generic[T]):
    def __init__(self, item: T) -> None:
        self.item = item


class Meta(type):
    def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> Any:
        return super().__new__(cls, name, bases, {**body, "made": True})


class OfMeta(metaclass=Meta):
    pass


class Registering:
    known: typing.ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls) -> None:
        Registering.known[cls.__name__] = cls


class Registered(Registering):
    pass


class Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a = 1


class Descriptor:
    def __get__(self, owner: Any, kind: Any = None) -> int:
        return 1

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Described:
    field = Descriptor()

    @property
    def double(self) -> int:
        return 2

    @classmethod
    def make(cls) -> Any:
        return cls()

    @staticmethod
    def plain() -> int:
        return 3


class Cached:
    @functools.cached_property
    def value(self) -> int:
        return 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Kind(enum.Enum):
    A = "a"
    ALSO_A = "a"

    def describe(self) -> str:
        return self.value


class Flags(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclasses.dataclass
class Point:
    x: int = 0
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int = 0


@attrs.define
class Attrs:
    x: int = 0


@attrs.frozen
class AttrsFrozen:
    x: int = attrs.field(default=0, validator=attrs.validators.instance_of(int))


class Model(pydantic.BaseModel):
    x: int = 0


class Pair(NamedTuple):
    a: int
    b: int


class Options(TypedDict):
    a: int


Plain = collections.namedtuple("Plain", "a b")


class WithLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class WithoutLock(WithLock):
    def __reduce__(self) -> Any:
        return WithoutLock, ()


class StateWithoutLock(WithLock):
    def __getstate__(self) -> dict[str, Any]:
        return {}


class TwoArguments(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a)


class BadState:
    """Can be pickled, but not unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("bad state")

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


class OneArgument(Exception):
    pass


@functools.lru_cache
def cached(n: int) -> int:
    return n if n < 2 else cached(n - 1) + cached(n - 2)


@functools.wraps(cached)
def wrapping(n: int) -> int:
    return n


@functools.singledispatch
def dispatching(n: Any) -> int:
    return 0


@dispatching.register
def _(n: int) -> int:
    return 1


def generating() -> Iterator[int]:
    yield 1


async def awaiting() -> int:
    return 1


def _opened(mode: str) -> Any:
    return Path(os.devnull).open(mode)


def _connection() -> Any:
    return sqlite3.connect(":memory:")


ABSTRACT = [getattr(collections.abc, name) for name in collections.abc.__all__ if name not in ("Buffer", "ByteString")]
CLASSES = [
    *(subclass_of(base) for base in ABSTRACT),
    *(subclass_of(base) for base in (abc.ABC, io.RawIOBase, dict, list, int, str, tuple, set)),
    *(Named, Box, OfMeta, Registered, Slots, Described, Cached, Point, Frozen, Attrs, AttrsFrozen, Model, WithoutLock),
    StateWithoutLock,
]
MAKERS: dict[str, Callable[[], Any]] = {
    **{
        f"class {each.__name__}": functools.partial(operator.getitem, CLASSES, index)
        for index, each in enumerate(CLASSES)
    },
    **{f"instance of {each.__name__}": each for each in CLASSES if each is not Box},
    "enum class": lambda: Kind,
    "enum member": lambda: Kind.ALSO_A,
    "int enum": lambda: [*Level],
    "flags": lambda: Flags.READ | Flags.WRITE,
    "generic alias": lambda: Box[int],
    "generic object": lambda: Box({"a": [1]}),
    "named tuple": lambda: Pair(1, 2),
    "collections' named tuple": lambda: Plain(1, 2),
    "typed dict": lambda: Options(a=1),
    "new type": lambda: UserId,
    "type variable": lambda: T,
    "union": lambda: int | None,
    "lock": threading.Lock,
    "rlock": threading.RLock,
    "event": threading.Event,
    "thread local": threading.local,
    "thread": threading.Thread,
    "asyncio lock": asyncio.Lock,
    "queue": queue.Queue,
    "object with a lock": WithLock,
    "socket": socket.socket,
    "read file": lambda: _opened("r"),
    "written file": lambda: _opened("w"),
    "text in memory": lambda: io.StringIO("a"),
    "bytes in memory": lambda: io.BytesIO(b"a"),
    "database": _connection,
    "weak reference": lambda: weakref.ref(TARGET),
    "weak dict": lambda: weakref.WeakValueDictionary({"a": TARGET}),
    "weak set": lambda: weakref.WeakSet([TARGET]),
    "weak method": lambda: weakref.WeakMethod(TARGET.method),
    "partial": lambda: functools.partial(operator.add, 1),
    "partial of a local": lambda: functools.partial(lambda a, b: a + b, 1),
    "cached function": lambda: cached,
    "cached local function": lambda: functools.cache(lambda n: n),
    "wrapping function": lambda: wrapping,
    "dispatching function": lambda: dispatching,
    "key function": lambda: functools.cmp_to_key(lambda a, b: a - b),
    "partial method": lambda: functools.partialmethod(lambda self, n: n, 1),
    "bound method": lambda: TARGET.method,
    "class method": lambda: Described.make,
    "method of a builtin": lambda: [1].append,
    "builtin": lambda: len,
    "coroutine function": lambda: awaiting,
    "generator function": lambda: generating,
    "generator": generating,
    "iterator": lambda: iter([1, 2]),
    "count": lambda: itertools.count(3),
    "zip": lambda: zip([1], [2], strict=True),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 2),
    "memory view": lambda: memoryview(b"abc"),
    "mapping proxy": lambda: types.MappingProxyType({"a": 1}),
    "namespace": lambda: types.SimpleNamespace(a=1),
    "code": lambda: generating.__code__,
    "frame-less cell": lambda: types.CellType(1),
    "dict keys": lambda: {"a": 1}.keys(),
    "deque": lambda: collections.deque([1], maxlen=2),
    "default dict": lambda: collections.defaultdict(lambda: 1),
    "ordered dict": lambda: collections.OrderedDict(a=1),
    "counter": lambda: collections.Counter("aab"),
    "chain map": lambda: collections.ChainMap({"a": 1}, {}),
    "pattern": lambda: re.compile(r"\d+"),
    "match": lambda: re.match("a", "a"),
    "decimal": lambda: decimal.Decimal("1.5"),
    "fraction": lambda: fractions.Fraction(1, 3),
    "uuid": lambda: uuid.UUID(int=1),
    "path": lambda: Path("/a"),
    "date": lambda: datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
    "logger": lambda: logging.getLogger("a"),
    "handler": logging.StreamHandler,
    "random": lambda: random.Random(1),
    "item getter": lambda: operator.itemgetter("a"),
    "struct": lambda: struct.Struct("<i"),
    "hash": lambda: hashlib.sha256(b"a"),
    "compressor": zlib.compressobj,
    "context variable": lambda: contextvars.ContextVar("a"),
    "c array": lambda: (ctypes.c_int * 3)(),
    "c pointer": lambda: ctypes.pointer(ctypes.c_int(1)),
    "environment": lambda: os.environ,
    "exception": lambda: OneArgument("a"),
    "exception of two arguments": lambda: TwoArguments(1, 2),
    "object with a bad state": BadState,
    "builtin exception": lambda: KeyError("a"),
    "ellipsis": lambda: ...,
    "module": lambda: json,
    "module of a package": lambda: np.linalg,
    "array": lambda: np.arange(3),
    "array of objects": lambda: np.array([{}, None], dtype=object),
    "structured type": lambda: np.dtype([("a", "i4")]),
    "ufunc": lambda: np.sin,
    "made ufunc": lambda: np.frompyfunc(lambda a: a, 1, 1),
    "numpy generator": lambda: np.random.default_rng(1),
    "vectorized": lambda: np.vectorize(lambda a: a),
    "frame": lambda: pd.DataFrame({"a": [1, None]}),
    "categories": lambda: pd.Series(["a", "b"], dtype="category"),
    "grouped": lambda: pd.DataFrame({"a": [1, 2]}).groupby("a"),
    "timestamp": lambda: pd.Timestamp("2026-01-01", tz="UTC"),
    "pandas' null": lambda: pd.NA,
    "interval": lambda: pd.Interval(0, 1),
    "arrow table": lambda: pa.table({"a": [1]}),
    "arrow schema": lambda: pa.schema([("a", pa.int64())]),
    "arrow scalar": lambda: pa.scalar(1),
    "arrow buffer": lambda: pa.py_buffer(b"abc"),
    "arrow reader": lambda: pa.RecordBatchReader.from_batches(pa.schema([]), []),
}


def _cell(value: Any) -> Any:
    return lambda: value


def _default(value: Any) -> Any:
    def function(held: Any = value) -> Any:
        return held

    return function


def _attribute(value: Any) -> Any:
    def function() -> Any:
        return None

    function.held = value  # type: ignore[attr-defined]
    return function


def _in_list(value: Any) -> Any:
    return _cell([1, [value]])


def _in_dict(value: Any) -> Any:
    return _default({"a": {"b": value}})


def _in_object(value: Any) -> Any:
    return _cell(Box(value))


def _in_class(value: Any) -> Any:
    return _cell(type("Holder", (), {"held": value}))


def _in_partial(value: Any) -> Any:
    return functools.partial(lambda held: held, value)


def _in_helper(value: Any) -> Any:
    inner = _cell(value)
    return lambda: inner()


HOLDERS = (_cell, _default, _attribute, _in_list, _in_dict, _in_object, _in_class, _in_partial, _in_helper)


def functions(count: int, seed: int) -> dict[str, Any]:
    """Return functions that capture values, by the names of the values and of the ways to capture them."""
    chosen = random.Random(seed)
    pairs = [(name, holder) for name in MAKERS for holder in HOLDERS]
    return {
        f"{name} {holder.__name__.strip('_').replace('_', ' ')}": holder(MAKERS[name]())
        for name, holder in chosen.sample(pairs, count)
    }
