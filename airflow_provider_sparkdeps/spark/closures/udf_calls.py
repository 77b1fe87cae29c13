"""Finds the functions in a task's callable that run on executors, by reading its source."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from airflow_provider_sparkdeps.spark.closures.findings import Finding

# Functions and decorators of PySpark that make a UDF.
_UDF_FACTORIES = frozenset(("udf", "pandas_udf", "arrow_udf", "udtf", "arrow_udtf"))
# Methods of DataFrames that take a function, and the position of that argument.
_FUNCTION_METHODS = {
    "mapInPandas": 0,
    "mapInArrow": 0,
    "applyInPandas": 0,
    "applyInArrow": 0,
}
# Methods of DataFrames, writers and catalogs that send the functions of a query. `count` and others of these may be
# methods of other objects; then a warning is missing.
_ACTIONS = frozenset(
    (
        *("collect", "count", "show", "toPandas", "toArrow", "toLocalIterator", "first", "head", "take", "tail"),
        *("isEmpty", "foreach", "foreachPartition", "save", "saveAsTable", "insertInto", "parquet", "orc", "csv"),
        *("json", "jdbc", "start", "toTable", "checkpoint", "localCheckpoint", "register", "createTempView"),
        *("write", "writeTo", "writeStream"),
        *("createOrReplaceTempView", "createGlobalTempView", "createOrReplaceGlobalTempView"),
    )
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True, eq=False)
class ExecutorFunction:
    """A function that the callable sends to executors.

    :param function: of a function that the callable defines, only what is known before: its code, its globals, and the
        variables of functions around the callable.
    :param findings: what the source shows.
    """

    function: Any
    findings: tuple[Finding, ...] = ()


def executor_functions(function: Callable[..., Any]) -> list[ExecutorFunction]:
    """Return what a callable sends or may send to executors, by its source; nothing if there is no source.

    :param function: a function, for example an operator's `python_callable`.
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
            alias.asname or alias.name.partition(".")[0]
            for each, _ in _statements(node.body)
            if isinstance(each, (ast.Import, ast.ImportFrom))
            for alias in each.names
            if f"{getattr(each, 'module', None) or alias.name}.".startswith("pyspark.")
        }

    def read(self) -> Iterator[ExecutorFunction]:
        done: set[str] = set()
        for statement, rebound in _statements(self._node.body):
            if isinstance(statement, ast.FunctionDef):
                if any(self._is_factory(_called(each)) for each in statement.decorator_list):
                    yield from self._local(statement, rebound, done)
                continue
            for call, bound in _calls(statement):
                yield from self._passed(call, rebound | bound, done)

    def _passed(self, call: ast.Call, rebound: frozenset[str], done: set[str]) -> Iterator[ExecutorFunction]:
        target = call.func
        if isinstance(target, ast.Attribute) and target.attr in _FUNCTION_METHODS:
            position = _FUNCTION_METHODS[target.attr]
        elif self._is_factory(target):
            position = 0
        else:
            return
        named = [keyword.value for keyword in call.keywords if keyword.arg in ("f", "func")]
        argument = next(iter([*call.args[position : position + 1], *named]), None)
        if isinstance(argument, ast.Lambda):
            yield from self._local(argument, rebound, done)
        elif isinstance(argument, ast.Name) and argument.id in self._defined:
            yield from self._local(self._defined[argument.id], rebound, done)
        elif isinstance(argument, ast.Name) and callable(self._known.get(argument.id)) and argument.id not in done:
            done.add(argument.id)
            yield ExecutorFunction(self._known[argument.id])

    def _local(
        self, node: ast.FunctionDef | ast.Lambda, rebound: frozenset[str], done: set[str]
    ) -> Iterator[ExecutorFunction]:
        """Yield a function that the callable defines, and the local functions that it may call."""
        name = "<lambda>" if isinstance(node, ast.Lambda) else node.name
        if name != "<lambda>" and name in done:
            return
        done.add(name)
        decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
        line = min([node.lineno, *(each.lineno for each in decorators)]) + self._offset
        found = [
            code for code in _codes_in(self._function.__code__) if code.co_name == name and code.co_firstlineno == line
        ]
        if len(found) != 1:
            return
        own = closure_of(self._function)
        cells = tuple(CellType(own[each]) if each in own else CellType() for each in found[0].co_freevars)
        function = FunctionType(found[0], self._function.__globals__, name, None, cells)
        function.__qualname__ = f"{self._function.__qualname__}.<locals>.{name}"
        function.__module__ = self._function.__module__
        late = tuple(_late_binding(each, name) for each in found[0].co_freevars if each in rebound)
        yield ExecutorFunction(function, late)
        for used in found[0].co_freevars:
            if used in self._defined:
                yield from self._local(self._defined[used], frozenset(), done)

    def _is_factory(self, target: ast.expr) -> bool:
        """Return whether an expression is PySpark's `udf` or a similar function, and not another one of this name."""
        name, root = getattr(target, "attr", getattr(target, "id", None)), _root(target)
        if name not in _UDF_FACTORIES or not isinstance(root, ast.Name):
            return False
        value = self._known.get(root.id)
        module = str(getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", ""))
        return root.id in self._imported or f"{module}.".startswith("pyspark.")


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    """Yield the functions that a function defines, also in comprehensions."""
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield const
            if const.co_name in ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"):
                yield from _codes_in(const)


def _known_values(function: FunctionType) -> Mapping[str, Any]:
    """Return the values of a function's names before it runs, without its local variables."""
    code = function.__code__
    local = {*code.co_varnames, *code.co_cellvars}
    values = {name: value for name, value in function.__globals__.items() if name not in local}
    return values | closure_of(function)


def closure_of(function: FunctionType) -> dict[str, Any]:
    """Return the values of a function's free variables that are assigned."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _late_binding(variable: str, function: str) -> Finding:
    problem = "is set in a loop, and functions are pickled at the action, all with the value that it has then"
    fix = f"Give the function its own: write `{variable}={variable}` as its last parameter."
    return Finding("warning", variable, function, problem, fix)


def _statements(
    body: list[ast.stmt], *, rebound: frozenset[str] = frozenset()
) -> Iterator[tuple[ast.stmt, frozenset[str]]]:
    """Yield the statements of a function, without those of nested functions.

    With each come the variables that loops around it set again before an action.
    """
    for statement in body:
        yield statement, rebound
        if isinstance(statement, _FUNCTIONS):
            continue
        inside = rebound | _bound_in(statement) if isinstance(statement, _LOOPS) else rebound
        for inner in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, inner, []), rebound=inside)
        for handler in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
            yield from _statements(handler.body, rebound=inside)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a function or a loop, without the bodies of nested functions."""
    waiting = [*getattr(node, "body", [])] if isinstance(node, ast.FunctionDef) else [*ast.iter_child_nodes(node)]
    while waiting:
        each = waiting.pop()
        yield each
        if not isinstance(each, _FUNCTIONS):
            waiting += ast.iter_child_nodes(each)


def _root(node: ast.expr) -> ast.expr:
    """Return the object that a chain of attributes and calls begins with."""
    while isinstance(node, (ast.Attribute, ast.Call, ast.Subscript)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node


def _bound_in(loop: ast.AST) -> frozenset[str]:
    """Return the variables that a loop sets, without those of nested functions; none if it ends early or may act."""
    names = set()
    for each in _nodes(loop):
        if isinstance(each, ast.Attribute) and each.attr in _ACTIONS:
            return frozenset()
        # A function that is called for what it does may run an action (`save(frame, name)`).
        called = each.value.func if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call) else None
        if isinstance(each, (ast.Break, ast.Return)) or isinstance(called, ast.Name):
            return frozenset()
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            names.add(each.id)
        if isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            names.add(each.name)
    return frozenset(names)


def _calls(statement: ast.stmt) -> Iterator[tuple[ast.Call, frozenset[str]]]:
    """Yield the calls in the expressions of a statement, and the variables that comprehensions around them set."""
    waiting: list[tuple[ast.AST, frozenset[str]]] = [(statement, frozenset())]
    while waiting:
        each, bound = waiting.pop()
        if isinstance(each, ast.Call):
            yield each, bound
        if isinstance(each, _COMPREHENSIONS):
            bound |= _bound_in(each)
        waiting += [
            (child, bound)
            for child in ast.iter_child_nodes(each)
            if not isinstance(child, (ast.stmt, ast.excepthandler, *_FUNCTIONS)) or isinstance(child, ast.withitem)
        ]


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator
