"""Reads pickled functions without importing or running anything that they name: their globals and variables."""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.spark.closures.pickled_size import ByteCounter

_MAX_DEPTH = 20


@dataclass(frozen=True)
class Variable:
    """A variable of a pickled function.

    :param name: as the function calls it, for example "TABLE" or "self.model".
    :param owner: the functions that lead to it: `("score", "lookup")`.
    :param size: in bytes, to compare variables: what several of them share is in the size of each.
    """

    name: str
    owner: tuple[str, ...]
    size: int


def largest_variable(pickled: bytes) -> Variable | None:
    """Return the largest variable of a function that cloudpickle has pickled by value, or of those that it captures.

    Globals, closure cells, defaults, and the attributes of functions, classes and callable objects are variables.
    The values are rebuilt from builtin types and stubs, which takes about the memory of the original values.

    :return: None if there is no variable, or if the pickle can't be read.
    """
    return max(_read(pickled).variables(), key=lambda variable: variable.size, default=None)


def globals_of(pickled: bytes) -> set[tuple[str, str]]:
    """Return what unpickling a function looks up by name, as modules and names; for whole modules the name is empty."""
    return _read(pickled).globals


def _read(pickled: bytes) -> _Reader:
    reader = _Reader(io.BytesIO(pickled))
    # Extension codes refer to globals, and cached ones are used without a call of `find_class`.
    copyreg.clear_extension_cache()
    # Other pickles than cloudpickle's may fail here. What was read before the failure is still valid.
    with contextlib.suppress(Exception):
        reader.add_object(reader.load())
    copyreg.clear_extension_cache()
    return reader


class _Stub:
    """Stands in for an object or a global, and keeps what the pickle makes it from."""

    __slots__ = ("args", "contents")
    args: tuple[Any, ...]
    contents: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> _Stub:
        stub = object.__new__(cls)
        stub.args, stub.contents = (*args, *kwargs.items()), []
        return stub

    def __call__(self, *args: Any) -> _Stub:
        return _Stub(*args)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.contents.append((key, value))

    def append(self, value: Any) -> None:
        self.contents.append(value)

    add = __setstate__ = append


class _Function(_Stub):
    """Stands in for a function that is pickled by value, as cloudpickle's `_make_function` would return it."""

    __slots__ = ()


def _make_class(constructor: Any, name: str, *args: Any) -> type:
    """Return what cloudpickle's `_make_skeleton_class` would: a class, which pickles may instantiate."""
    return type("_Class", (_Stub,), {"__slots__": (), "class_name": name})


class _Reader(pickle.Unpickler):
    """Unpickles builtin values, and stubs in place of all others."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._owners: list[tuple[Any, str, list[tuple[str, Any]]]] = []
        self.globals: set[tuple[str, str]] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.globals.add((module, name))
        if name == "subimport":
            return self._import
        if name in ("_make_skeleton_class", "_make_skeleton_enum"):
            return _make_class
        if name in ("_function_setstate", "_class_setstate"):
            return self._set_function if name == "_function_setstate" else self._set_class
        return _Function if name == "_make_function" else _Stub

    def add_object(self, root: Any) -> None:
        """Add the attributes of what was pickled, if it is a callable object or a bound method."""
        # PySpark pickles a function with its return type.
        root = root[0] if isinstance(root, tuple) and root else root
        for stub in (root, *root.args) if isinstance(root, _Stub) else ():
            for state in stub.contents if isinstance(stub, _Stub) else ():
                attributes = state[0] if isinstance(state, tuple) else state
                if isinstance(attributes, dict):
                    self._owners.append((stub, "", [(f"self.{name}", value) for name, value in attributes.items()]))

    def variables(self) -> Iterator[Variable]:
        """Yield the variables that were read; functions and classes by value have variables of their own instead."""
        names = {id(owner): name for owner, name, _ in self._owners}
        parents: dict[int, int] = {}
        for owner, _, values in self._owners:
            for _, value in values:
                if id(value) in names and value is not owner:
                    parents.setdefault(id(value), id(owner))
        for owner, name, values in self._owners:
            path, parent = [name] if name else [], parents.get(id(owner))
            while parent is not None and len(path) < _MAX_DEPTH:
                path.insert(0, names[parent])
                parent = parents.get(parent)
            for variable, value in values:
                if id(value) not in names:
                    yield Variable(str(variable), tuple(path), _size(value))

    def _import(self, module: str) -> _Stub:
        self.globals.add((module, ""))
        return _Stub(module)

    def _set_function(self, function: _Function, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
        attributes, slots = state
        freevars = function.args[0].args[-2]
        cells = [
            (name, cell.args[0]) for name, cell in zip(freevars, slots["__closure__"] or (), strict=True) if cell.args
        ]
        defaults = [("a default", value) for value in slots["__defaults__"] or ()]
        mappings = (slots["__globals__"], slots["__kwdefaults__"] or {}, attributes)
        named = [item for mapping in mappings for item in mapping.items()]
        self._owners.append((function, str(slots["__name__"]), [*named, *cells, *defaults]))

    def _set_class(self, owner: Any, state: tuple[dict[str, Any], Any]) -> None:
        self._owners.append((owner, str(owner.class_name), list(state[0].items())))


class _Sizer(pickle.Pickler):
    """Pickles what `_Reader` read, without functions and classes."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, _Stub) and not isinstance(value, _Function):
            return str, (), (value.args, value.contents)
        return NotImplemented if value is str else (str, ())


def _size(value: Any) -> int:
    counter = ByteCounter()
    with contextlib.suppress(Exception):
        _Sizer(counter, protocol=5).dump(value)
    return counter.bytes
