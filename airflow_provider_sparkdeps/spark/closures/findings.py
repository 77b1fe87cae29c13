"""Finds what will fail, or is likely a mistake, in what a function captures, and how to fix it."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

from airflow_provider_sparkdeps.spark.closures.bytecode import read_code
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.pickled_size import Size
from airflow_provider_sparkdeps.spark.closures.resources import SESSION_BOUND, resource_of
from airflow_provider_sparkdeps.spark.closures.walker import CapturedValue, ClosureWalker, WalkedFunction

Level = Literal["error", "warning", "note"]

# Bytes. Spark sends a function again with each use in each query, which is not noticeable below this size.
LARGE = 4_000_000
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_CREATE_IN_FUNCTION = "Create it inside the function, where it is first used."
FIXES = {
    "SparkSession": "Collect the data in the callable and use the result: executors can't run queries.",
    "SparkContext": "Collect the data in the callable and use the result: executors can't run queries.",
    "DataFrame": "Join with it, or collect it in the callable (`.toPandas()`, `.collect()`) and use the result.",
    "RDD": "Collect it in the callable and use the result.",
    "Column": "Use it in the query: a function gets the values of columns as its arguments.",
    "Broadcast": "Create it with `broadcast`, which the callable gets as a parameter of this name.",
    "file": "Read it in the callable and use the result.",
}


@dataclass(frozen=True)
class Finding:
    """A problem with something that a function captures or imports.

    :param level: "error" (it can't work), "warning" (it is slow, or likely a mistake), "note" (good to know).
    :param name: of the variable or module, for example "TABLE".
    :param owner: the functions that lead to it, for example "score -> parse".
    :param problem: what is wrong, as a clause whose subject is the name.
    :param fix: what to do, as a sentence.
    """

    level: Level
    name: str
    owner: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"`{self.name}` in {self.owner} {self.problem}. {self.fix}"


def how_to_broadcast(name: str | None) -> str:
    """Return what to do with a large value, as a sentence.

    :param name: of its variable, if it is known.
    """
    if name is None or not name.isidentifier():
        return (
            "Pass large values to `broadcast(...)` in the callable, and use the `.value` of its result in the function."
        )
    variable = name.lower()
    return f"Write `{variable} = broadcast({name})` in the callable, and use `{variable}.value` in the function."


def find_problems(
    walk: ClosureWalker,
    whole: Size,
    sizes: Sequence[tuple[CapturedValue, Size]],
    modules: ExecutorModules,
    *,
    name: str,
    large: int,
) -> Iterator[Finding]:
    """Yield the problems of what was captured. Each is found once, at the innermost variable.

    :param whole: the size of the function.
    :param sizes: the captured values with their sizes. If the function can be pickled, all of them can.
    :param name: of the function.
    :param large: bytes from which a value should be broadcast.
    """
    # Variables with a problem. Those that contain one of them are not reported again.
    faulty: set[tuple[tuple[str, ...], str]] = set()
    found: list[tuple[Any, Finding]] = []
    facts = {walked.path: walked for walked in walk.functions}
    for each, size in reversed(sizes):
        if isinstance(each.value, (FunctionType, CodeType)) and not each.by_reference:
            continue
        finding = _of_value(each, size, modules, large=large, facts=facts.get(each.owner))
        holder = (each.owner, each.name)
        if finding is None or any(inner == holder or _is_inside(inner, holder) for inner in faulty):
            continue
        faulty.add(holder)
        found.append((each.value, finding))
    found.reverse()
    if whole.bytes is None and not any(size.bytes is None for _, size in sizes):
        found.append((None, Finding("error", name, name, f"can't be pickled ({whole.error})", _CREATE_IN_FUNCTION)))
    writers = GlobalWriters()
    for walked in walk.functions:
        found += [(None, finding) for finding in _imports(walked, modules)]
        found += [(None, finding) for finding in _written_globals(walked, walk, writers)]
    reported: set[Any] = set()
    for value, finding in found:
        # A large value with two names is reported once.
        key = (id(value), finding.level) if finding.level == "warning" and value is not None else None
        if not {(finding.name, finding.problem), key} & reported:
            reported |= {(finding.name, finding.problem), key} - {None}
            yield finding


def _is_inside(inner: tuple[tuple[str, ...], str], holder: tuple[tuple[str, ...], str]) -> bool:
    (inner_owner, inner_name), (owner, name) = inner, holder
    if inner_owner == owner:
        return inner_name.startswith((f"{name}.", f"{name}["))
    return inner_owner[: len(owner) + 1] == (*owner, name)


def _of_value(
    each: CapturedValue, size: Size, modules: ExecutorModules, *, large: int, facts: WalkedFunction | None
) -> Finding | None:
    owner = " -> ".join(each.owner)
    whole = isinstance(each.value, ModuleType) and not each.by_reference
    used = facts.facts.attributes.get(each.name, ()) if facts else ()
    # Read `__name__` of modules only: on a DataFrame, looking up an attribute may ask the server for a column.
    module_name = each.value.__name__ if isinstance(each.value, ModuleType) else each.name
    import_names = f"Write `from {module_name} import {', '.join(used) or '...'}` instead."
    resource = resource_of(each.value)
    if size.bytes is None:
        inner = resource_of(size.culprit)
        problem = f"can't be pickled ({f'it holds {inner.name}' if inner else size.error})"
        if resource:
            problem = f"is {resource.name}, which can't be pickled"
        if whole:
            return Finding(
                "error", each.name, owner, f"is a module that is pickled as a whole, and {problem}", import_names
            )
        kind = getattr(resource or inner, "kind", "")
        return Finding("error", each.name, owner, problem, FIXES.get(kind, _CREATE_IN_FUNCTION))
    if resource and resource.kind in SESSION_BOUND:
        # PySpark pickles their names.
        problem = f"is {resource.name}, which executors don't have"
        return Finding("warning", each.name, owner, problem, FIXES[resource.kind])
    if resource and resource.kind == "Column":
        return Finding("warning", each.name, owner, "is a Column, which a function can't use", FIXES["Column"])
    for module in sorted(size.references):
        level: Level = "warning"
        has, missing = modules.has(module), "executors don't have"
        if modules.is_certain:
            level = "error"
        if has is None and (module.partition(".")[0] == "airflow" or modules.is_loose(module)):
            has, missing = False, "is probably not installed on executors"
        if has is False:
            problem = f"{_reference(each, module)} {missing}"
            fix = import_names if whole else modules.how_to_add(module)
            if modules.is_dag_module(module) and each.by_reference and not isinstance(each.value, ModuleType):
                # Functions and classes of the DAG's modules are pickled by value.
                fix = "It is pickled by its name only. Put it into a module, and send its file with py_files=."
            return Finding(level, each.name, owner, problem, fix)
    if size.bytes >= large:
        amount = f"{'more than ' if size.more else ''}{size.bytes / 1e6:.1f} MB"
        problem = f"adds {amount} to every query that uses it"
        return Finding("warning", each.name, owner, problem, import_names if whole else how_to_broadcast(each.name))
    if whole:
        problem = f"is a module that is pickled as a whole, with all its globals ({size.bytes:,} bytes)"
        return Finding("note", each.name, owner, problem, import_names)
    return None


def _reference(each: CapturedValue, module: str) -> str:
    """Return how a value refers to a module, as a clause that ends with "which"."""
    if isinstance(each.value, ModuleType) and not each.by_reference:
        return f"is a module that is pickled as a whole, with `{module}`, which"
    if isinstance(each.value, ModuleType):
        return "is a module, which"
    return f"{'is' if each.by_reference else 'contains an object'} from `{module}`, which"


def _imports(walked: WalkedFunction, modules: ExecutorModules) -> Iterator[Finding]:
    for one in walked.facts.imports:
        if one.guarded or modules.has(one.module) is not False:
            continue
        # A function that the sent one refers to may not be called.
        always = one.certain and len(walked.path) == 1
        level: Level = "note" if not one.certain else "error" if always and modules.is_certain else "warning"
        problem = "is imported, and executors don't have it"
        yield Finding(level, one.module, " -> ".join(walked.path), problem, modules.how_to_add(one.module))


def _written_globals(walked: WalkedFunction, walk: ClosureWalker, writers: GlobalWriters) -> Iterator[Finding]:
    """Find globals that functions set on the worker only."""
    on_executors = {each.code for each in walk.functions}
    for name in walked.facts.globals:
        functions = writers.of(walked.globals, name)
        # A global that executors set themselves is a cache.
        if name not in walked.globals or not functions or any(each.__code__ in on_executors for each in functions):
            continue
        value = walked.globals[name]
        names = " and ".join(f"{each.__qualname__}()" for each in functions)
        problem = f"is set by {names} on the worker only, and is pickled with the value that it has at the action"
        if value is None:
            problem += " (None now)"
        fix = f"Call {functions[0].__qualname__}() in the callable before the action, or pass the value as an argument."
        yield Finding("warning" if value is None else "note", name, " -> ".join(walked.path), problem, fix)


class GlobalWriters:
    """Finds the functions of modules that set globals of their module (`global x`)."""

    def __init__(self) -> None:
        self._modules: dict[int, dict[str, list[FunctionType]]] = {}

    def of(self, globals_: Mapping[str, Any], name: str) -> Sequence[FunctionType]:
        """Return the functions that set a global.

        :param globals_: the globals of the module.
        """
        if id(globals_) not in self._modules:
            found: dict[str, list[FunctionType]] = {}
            for function in _functions_of(globals_):
                # Disassembling is slow, and most functions set no global.
                if _sets_globals(function.__code__):
                    for each in read_code(function.__code__).stores:
                        found.setdefault(each, []).append(function)
            self._modules[id(globals_)] = found
        return self._modules[id(globals_)].get(name, ())


def _functions_of(globals_: Mapping[str, Any]) -> Iterator[FunctionType]:
    for value in list(globals_.values()):
        # Not `isinstance`, which asks a lazy object for its class, and so makes it.
        is_class = issubclass(type(value), type)
        members = list(vars(value).values()) if is_class else [value]
        for member in members:
            inner = getattr(member, "__func__", member) if is_class else member
            if type(inner) is FunctionType and inner.__globals__ is globals_:
                yield inner


def _sets_globals(code: CodeType) -> bool:
    nested = (const for const in code.co_consts if isinstance(const, CodeType))
    return _STORE_GLOBAL in code.co_code[::2] or any(map(_sets_globals, nested))
