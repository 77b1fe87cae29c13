"""Which functions inside a task's callable run on executors, as far as its source says so."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

# What makes a UDF of its first argument, or of the function that it decorates.
_UDF_FACTORIES = frozenset(("udf", "pandas_udf", "arrow_udf", "udtf", "arrow_udtf"))
# Methods of DataFrames, and the place of the function among their arguments.
_FUNCTION_METHODS = {
    "mapInPandas": 0,
    "mapInArrow": 0,
    "applyInPandas": 0,
    "applyInArrow": 0,
    "foreach": 0,
    "foreachPartition": 0,
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True, eq=False)
class ExecutorFunction:
    """A function that executors run, when the callable has it done so.

    :param code: of one that the callable defines.
    :param function: one that is there already.
    :param certain: the callable comes to it whenever it comes to its end.
    """

    name: str
    code: CodeType | None
    function: Any
    certain: bool


def executor_functions(function: Callable[..., Any]) -> list[ExecutorFunction]:
    """Read a callable's source; nothing is found where there is none, or where it leaves doubt.

    :param function: a plain function, such as an operator's `python_callable`.
    """
    if not isinstance(function, FunctionType):
        return []
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError):
        return []
    node = tree.body[0] if tree.body else None
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        return []
    return list(_Reader(function, node, first - 1).read())


class _Reader:
    def __init__(self, function: FunctionType, node: ast.FunctionDef, offset: int) -> None:
        self._function = function
        self._node = node
        self._offset = offset
        self._defined = {each.name: each for each, _ in _statements(node.body) if isinstance(each, ast.FunctionDef)}
        self._known = _known_values(function)
        self._imported = {
            alias.asname or alias.name
            for each, _ in _statements(node.body)
            if isinstance(each, ast.ImportFrom) and (each.module or "").startswith("pyspark.")
            for alias in each.names
        }

    def read(self) -> Iterator[ExecutorFunction]:
        done: set[str] = set()
        for statement, certain in _statements(self._node.body):
            if isinstance(statement, ast.FunctionDef):
                if any(self._is_maker(_called(each)) for each in statement.decorator_list):
                    yield from self._local(statement, certain, done)
                continue
            for call in _calls(statement):
                yield from self._given(call, certain, done)

    def _given(self, call: ast.Call, certain: bool, done: set[str]) -> Iterator[ExecutorFunction]:
        target = call.func
        if isinstance(target, ast.Attribute) and target.attr in _FUNCTION_METHODS:
            place = _FUNCTION_METHODS[target.attr]
        elif self._is_maker(target):
            place = 0
        else:
            return
        given = call.args[place] if place < len(call.args) else None
        if isinstance(given, ast.Lambda):
            yield from self._local(given, certain, done)
        elif isinstance(given, ast.Name) and given.id in self._defined:
            yield from self._local(self._defined[given.id], certain, done)
        elif isinstance(given, ast.Name) and callable(self._known.get(given.id)) and given.id not in done:
            done.add(given.id)
            yield ExecutorFunction(given.id, None, self._known[given.id], certain)

    def _local(self, node: ast.FunctionDef | ast.Lambda, certain: bool, done: set[str]) -> Iterator[ExecutorFunction]:
        """A function that the callable defines, and those beside it that it calls, which it may not come to."""
        name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
        if name != "<lambda>" and name in done:
            return
        done.add(name)
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        line = min([node.lineno, *(each.lineno for each in decorators)]) + self._offset
        codes = [const for const in self._function.__code__.co_consts if isinstance(const, CodeType)]
        found = [code for code in codes if code.co_name == name and code.co_firstlineno == line]
        if len(found) != 1:
            return
        yield ExecutorFunction(name, found[0], None, certain)
        for used in found[0].co_freevars:
            if used in self._defined:
                yield from self._local(self._defined[used], False, done)

    def _is_maker(self, target: ast.expr) -> bool:
        """Whether an expression is one of PySpark's `udf` and the like, and not something else of this name."""
        if isinstance(target, ast.Attribute):
            return target.attr in _UDF_FACTORIES
        if not isinstance(target, ast.Name) or target.id not in _UDF_FACTORIES:
            return False
        module = str(getattr(self._known.get(target.id), "__module__", ""))
        return target.id in self._imported or module.startswith("pyspark.")


def _known_values(function: FunctionType) -> Mapping[str, Any]:
    """What names mean in a function before it runs, unless they are its own."""
    code = function.__code__
    own = {*code.co_varnames, *code.co_cellvars}
    values = {name: value for name, value in function.__globals__.items() if name not in own}
    return values | closure_of(function)


def closure_of(function: FunctionType) -> dict[str, Any]:
    """Return the values of a function's free variables, as far as they have been assigned."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _statements(body: list[ast.stmt], *, certain: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """All statements of a function, without those of functions in it, and whether it always comes to them."""
    for statement in body:
        yield statement, certain
        if isinstance(statement, _FUNCTIONS):
            continue
        straight = certain and isinstance(statement, (ast.With, ast.AsyncWith))
        for inner in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, inner, []), certain=straight)
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body, certain=False)
        # After what may have returned, nothing is certain.
        if any(isinstance(each, (ast.Return, ast.Raise)) for each in ast.walk(statement)):
            certain = False


def _calls(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls in a statement's own expressions."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.Call):
            yield each
        waiting += [
            child
            for child in ast.iter_child_nodes(each)
            if not isinstance(child, (ast.stmt, ast.excepthandler, *_FUNCTIONS)) or isinstance(child, ast.withitem)
        ]


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator
