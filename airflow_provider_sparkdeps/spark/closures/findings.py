"""What will fail or surprise of what a function takes to executors, each with what to do about it."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

from airflow_provider_sparkdeps.spark.closures.bytecode import read_code
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.pickled_size import Size, resource_of
from airflow_provider_sparkdeps.spark.closures.walker import CapturedValue, ClosureWalker, WalkedFunction

Level = Literal["error", "warning", "note"]

# Bytes. Spark sends a function again with each use and each query; below this, that costs less than anybody notices.
LARGE = 4_000_000
_STORE_GLOBAL = dis.opmap["STORE_GLOBAL"]
_MAKE_IT_THERE = "make it inside the function, where it is first used"
_REMEDIES = {
    "SparkSession": "collect what the function needs in the callable, and use that; executors can't query",
    "SparkContext": "collect what the function needs in the callable, and use that; executors can't query",
    "DataFrame": "join with it, or collect it in the callable (`.toPandas()`, `.collect()`), and use what that returns",
    "RDD": "collect it in the callable, and use what that returns",
    "Column": "apply it in the query; a function gets columns' values as its arguments",
    "Broadcast": "make it with the `broadcast` that the callable gets by a parameter of this name",
    "file": "read it in the callable, and use what that returns",
}


@dataclass(frozen=True)
class Finding:
    """Something that will fail or surprise, and what to do about it.

    :param level: "error" (it can't work), "warning" (it costs, or is likely wrong), "note" (good to know).
    :param name: what it is about, such as "TABLE".
    :param owner: the functions that lead to it, such as "score -> parse".
    :param fault: what is the matter, in words that go on from the name.
    :param remedy: what to do.
    """

    level: Level
    name: str
    owner: str
    fault: str
    remedy: str

    def __str__(self) -> str:
        return f"`{self.name}` in {self.owner} {self.fault}: {self.remedy}"


def broadcast_remedy(name: str | None) -> str:
    """Say what to do with a large value.

    :param name: of the variable that has it, if it is known.
    """
    if name is None or not name.isidentifier():
        return "make what is large with `broadcast(...)` in the callable, and use its `.value` in the function"
    variable = name.lower()
    return f"write `{variable} = broadcast({name})` in the callable, and `{variable}.value` in the function"


def find(
    walk: ClosureWalker, sizes: Sequence[tuple[CapturedValue, Size]], modules: ExecutorModules, *, large: int
) -> Iterator[Finding]:
    """Look through what was captured; each thing is found once, where it is.

    :param large: bytes from which a value should be broadcast.
    """
    # In what holds something that is found, it is not found again.
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
    setters = GlobalWriters()
    for walked in walk.functions:
        found += [(None, finding) for finding in _imports(walked, modules)]
        found += [(None, finding) for finding in _rebound(walked, walk, setters)]
    told: set[Any] = set()
    for value, finding in found:
        # Of one value by two names, the first says it.
        what = (id(value), finding.level) if finding.level == "warning" and value is not None else None
        if not {(finding.name, finding.fault), what} & told:
            told |= {(finding.name, finding.fault), what} - {None}
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
    # Only a module is asked for its name: a DataFrame would ask the server whether that is a column.
    module_name = each.value.__name__ if isinstance(each.value, ModuleType) else each.name
    instead = f"write `from {module_name} import {', '.join(used) or '...'}` instead"
    resource = resource_of(each.value)
    if resource and resource.kind == "Column":
        return Finding("warning", each.name, owner, "is a Column, of no use in a function", _REMEDIES["Column"])
    if size.bytes is None:
        fault = f"is {resource.name}, which can't travel" if resource else f"can't be pickled ({size.error})"
        if whole:
            return Finding("error", each.name, owner, f"is a module that travels whole, and {fault}", instead)
        kind = (resource or size.resource).kind if resource or size.resource else ""  # type: ignore[union-attr]
        level: Level = "warning" if kind == "file" else "error"
        return Finding(level, each.name, owner, fault, _REMEDIES.get(kind, _MAKE_IT_THERE))
    for module in sorted(size.references):
        has, level = modules.has(module), "error" if modules.is_certain else "warning"
        lack = "executors don't have"
        if has is None and module.partition(".")[0] == "airflow":
            has, level, lack = False, "warning", "executors hardly have"
        if has is False:
            fault = f"{_how(each, module)} {lack}"
            return Finding(level, each.name, owner, fault, instead if whole else modules.remedy(module))
    if size.bytes >= large:
        amount = f"{'more than ' if size.more else ''}{size.bytes / 1e6:.1f} MB"
        fault = f"is {amount} that travel with each use in each query"
        return Finding("warning", each.name, owner, fault, instead if whole else broadcast_remedy(each.name))
    if whole:
        fault = f"is a module that travels whole, with all its globals ({size.bytes:,} bytes)"
        return Finding("note", each.name, owner, fault, instead)
    return None


def _how(each: CapturedValue, module: str) -> str:
    """Say how a value comes to need a module, in words that go on with who lacks it."""
    if isinstance(each.value, ModuleType):
        return "is a module that" if each.by_reference else f"is a module that travels whole, with `{module}`, which"
    return f"{'is' if each.by_reference else 'holds something'} of `{module}`, which"


def _imports(walked: WalkedFunction, modules: ExecutorModules) -> Iterator[Finding]:
    for one in walked.facts.imports:
        if one.guarded or modules.has(one.module) is not False:
            continue
        level: Level = "note" if not one.certain else "error" if modules.is_certain else "warning"
        fault = "is imported, and executors don't have it"
        yield Finding(level, one.module, " -> ".join(walked.path), fault, modules.remedy(one.module))


def _rebound(walked: WalkedFunction, walk: ClosureWalker, setters: GlobalWriters) -> Iterator[Finding]:
    """Globals that functions set, which others take along as they are when an action runs."""
    along = {each.code for each in walk.functions}
    for name in walked.facts.globals:
        functions = setters.of(walked.globals, name)
        # What a function of executors sets, too, is a cache of theirs.
        if name not in walked.globals or not functions or any(each.__code__ in along for each in functions):
            continue
        value = walked.globals[name]
        names = " and ".join(f"{each.__qualname__}()" for each in functions)
        fault = f"is set by {names} on the worker only; its value when the action runs is what travels"
        if value is None:
            fault += ", and now that is None"
        remedy = f"call {functions[0].__qualname__}() in the callable before the action, or hand the value over"
        yield Finding("warning" if value is None else "note", name, " -> ".join(walked.path), fault, remedy)


class GlobalWriters:
    """The functions of modules that set globals of theirs (`global x`)."""

    def __init__(self) -> None:
        self._modules: dict[int, dict[str, list[FunctionType]]] = {}

    def of(self, globals_: Mapping[str, Any], name: str) -> Sequence[FunctionType]:
        """Return those that set a global.

        :param globals_: of the module.
        """
        if id(globals_) not in self._modules:
            found: dict[str, list[FunctionType]] = {}
            for function in _functions_of(globals_):
                # Most functions set no global: their bytes tell so without being taken apart.
                if _sets_globals(function.__code__):
                    for each in read_code(function.__code__).stores:
                        found.setdefault(each, []).append(function)
            self._modules[id(globals_)] = found
        return self._modules[id(globals_)].get(name, ())


def _functions_of(globals_: Mapping[str, Any]) -> Iterator[FunctionType]:
    for value in list(globals_.values()):
        members = list(vars(value).values()) if isinstance(value, type) else [value]
        for member in members:
            inner = getattr(member, "__func__", member) if isinstance(value, type) else member
            if isinstance(inner, FunctionType) and inner.__globals__ is globals_:
                yield inner


def _sets_globals(code: CodeType) -> bool:
    nested = (const for const in code.co_consts if isinstance(const, CodeType))
    return _STORE_GLOBAL in code.co_code[::2] or any(map(_sets_globals, nested))
