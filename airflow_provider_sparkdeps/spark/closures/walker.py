"""Walks what a function captures: its globals, defaults, closure and attributes, and what these capture in turn."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from airflow_provider_sparkdeps.spark import pyspark_compat
from airflow_provider_sparkdeps.spark.closures.bytecode import CodeFacts, read_code
from airflow_provider_sparkdeps.spark.closures.pickled_size import is_by_reference
from airflow_provider_sparkdeps.spark.closures.resources import resource_of

# Bounds of a walk. What is beyond them is still part of the measured sizes.
MAX_CAPTURES = 1000
_MAX_DEPTH = 20
_MAX_ELEMENTS = 100
_ATOMS = (int, float, complex, str, bytes, bool, type(None))


@dataclass(frozen=True, eq=False)
class CapturedValue:
    """A value that a function captures.

    :param name: as the function calls it, for example "TABLE" or "self.model".
    :param owner: the functions that lead to it, beginning with the inspected one: `("score", "parse")`.
    :param kind: "code", "global", "default", "keyword default", "closure cell", "annotation", "attribute", or
        "function" for an inspected function that is pickled by reference.
    :param by_reference: it is pickled by its name, and imported on executors.
    """

    name: str
    owner: tuple[str, ...]
    kind: str
    value: Any
    by_reference: bool


@dataclass(frozen=True, eq=False)
class WalkedFunction:
    """A function that is pickled by value, with the facts of its code."""

    path: tuple[str, ...]
    code: CodeType
    globals: Mapping[str, Any]
    facts: CodeFacts


def unwrap(function: Any) -> Any:
    """Return the function or class that a UDF, UDTF or cached function runs on executors; other values unchanged."""
    function = function.func if is_udf(function) else function
    if isinstance(function, functools._lru_cache_wrapper) and not is_by_reference(function):
        return function.__wrapped__
    return function


def is_udf(value: Any) -> bool:
    """Return whether a value is a UDF or UDTF of PySpark: an object, or a function that wraps one."""
    if isinstance(value, FunctionType):
        return hasattr(value, "evalType") and hasattr(value, "func")
    return type(value).__name__.startswith("UserDefined") and type(value).__module__.startswith("pyspark.sql")


def name_of(function: Any) -> str:
    """Return a display name for a function, an instance, a class or a partial."""
    if isinstance(function, functools.partial):
        return f"partial({name_of(function.func)})"
    return str(getattr(function, "__name__", None) or type(function).__name__)


class ClosureWalker:
    """Collects what a function captures. Each function, class and instance is visited once."""

    def __init__(self) -> None:
        self.captures: list[CapturedValue] = []
        self.functions: list[WalkedFunction] = []
        self.complete = True
        self._seen: set[int] = set()

    def start(self, function: Any) -> None:
        """Walk a function or another callable."""
        function = unwrap(function)
        name = name_of(function)
        if isinstance(function, (FunctionType, type)) and is_by_reference(function):
            self._add(name, (name,), "function", function, by_reference=True)
            return
        try:
            self._enter(function, (name,))
        except RecursionError:
            self.complete = False

    def _function(self, function: FunctionType, path: tuple[str, ...]) -> None:
        code, globals_ = function.__code__, function.__globals__
        facts = read_code(code, globals_.get("__package__"))
        self.functions.append(WalkedFunction(path, code, globals_, facts))
        self._add("code", path, "code", code, by_reference=False)
        for name in facts.globals:
            if name in globals_:
                self._capture(name, path, "global", globals_[name])
        defaults = function.__defaults__ or ()
        for name, value in zip(
            code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount], defaults, strict=True
        ):
            self._capture(name, path, "default", value)
        for name, value in (function.__kwdefaults__ or {}).items():
            self._capture(name, path, "keyword default", value)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # not assigned yet
            self._capture(name, path, "closure cell", value)
        for name, value in function.__annotations__.items():
            if not isinstance(value, _ATOMS) and getattr(value, "__module__", None) != "builtins":
                self._capture(name, path, "annotation", value)
        for name, value in vars(function).items():
            self._capture(name, path, "attribute", value)

    def _capture(self, name: str, owner: tuple[str, ...], kind: str, value: Any) -> None:
        """Add a value, and what it captures itself."""
        by_reference = is_by_reference(value)
        if not self._add(name, owner, kind, value, by_reference=by_reference) or by_reference:
            return
        if not isinstance(value, (ModuleType, *_ATOMS)):
            self._enter(unwrap(value), (*owner, name))

    def _add(self, name: str, owner: tuple[str, ...], kind: str, value: Any, *, by_reference: bool) -> bool:
        if len(self.captures) >= MAX_CAPTURES:
            self.complete = False
            return False
        self.captures.append(CapturedValue(name, owner, kind, value, by_reference))
        return True

    def _enter(self, value: Any, path: tuple[str, ...]) -> None:
        if id(value) in self._seen or len(path) > _MAX_DEPTH or resource_of(value):
            return
        self._seen.add(id(value))
        if isinstance(value, (FunctionType, type)) and is_by_reference(value):
            return
        # The attributes of the inspected object are named `self.x`, those of a captured one by its name.
        owner, name = (path[:-1], path[-1]) if len(path) > 1 else (path, "self")
        if isinstance(value, FunctionType):
            self._function(value, path)
        elif isinstance(value, MethodType):
            self._enter(value.__func__, path)
            if id(value.__self__) not in self._seen:
                self._seen.add(id(value.__self__))
                self._instance(value.__self__, path, "self")
        elif isinstance(value, functools.partial):
            for part_name, part in _parts_of_partial(value):
                self._capture(part_name, path, "attribute", part)
        elif isinstance(value, type):
            self._class(value, path)
        elif isinstance(value, (list, tuple, dict)):
            self._elements(value, owner, name)
        elif len(path) == 1 or not is_by_reference(type(value)):
            self._instance(value, owner, name)

    def _instance(self, value: Any, owner: tuple[str, ...], name: str) -> None:
        kind = type(value)
        if not is_by_reference(kind):
            class_name = kind.__name__ if name == "self" else name
            self._enter(kind, owner if owner[-1] == class_name else (*owner, class_name))
        if not isinstance(value, type) and _has_default_state(value):
            for attribute_name, attribute in _state(value):
                self._capture(f"{name}.{attribute_name}", owner, "attribute", attribute)

    def _class(self, value: type, path: tuple[str, ...]) -> None:
        for base in value.__bases__:
            self._enter(base, (*path, base.__name__))
        for name, member in pyspark_compat.pickled_attributes(value).items():
            inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
            if isinstance(inner, FunctionType):
                self._enter(inner, (*path, name))
            elif not name.startswith("__") and not inspect.isdatadescriptor(member):
                self._capture(f"{value.__name__}.{name}", path, "attribute", inner)

    def _elements(self, value: Any, owner: tuple[str, ...], name: str) -> None:
        """Capture functions and resources in a container; other elements are part of its size."""
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, element in itertools.islice(pairs, _MAX_ELEMENTS):
            if isinstance(element, (FunctionType, MethodType, functools.partial)) or resource_of(element):
                self._capture(f"{name}[{key!r}]", owner, "attribute", element)


def _parts_of_partial(value: functools.partial[Any]) -> Iterator[tuple[str, Any]]:
    yield "func", value.func
    for index, part in enumerate(value.args):
        yield f"args[{index}]", part
    yield from value.keywords.items()


def _has_default_state(value: Any) -> bool:
    """Return whether an object is pickled as its attributes, without a method of its class."""
    kind = type(value)
    methods = ("__reduce__", "__reduce_ex__", "__getstate__")
    return all(getattr(kind, name, None) is getattr(object, name, None) for name in methods)


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                yield name, getattr(value, name)
