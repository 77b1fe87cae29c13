"""Reports what is pickled with a function, as a table and as data, and the problems with it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import FIXES, LARGE, Finding, Level, find_problems
from airflow_provider_sparkdeps.spark.closures.pickled_size import MAX_MEASURED, Size, measure
from airflow_provider_sparkdeps.spark.closures.resources import SESSION_BOUND, resource_of
from airflow_provider_sparkdeps.spark.closures.unpickling import unpickling_errors
from airflow_provider_sparkdeps.spark.closures.walker import CapturedValue, ClosureWalker, name_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_sparkdeps.archives import Archive

# Bytes. The size of larger values is measured once, and reused when their container is measured.
_REUSED = 4096
_NARROWEST = 100
_COLUMNS = ("used by", "name", "kind", "type", "bytes", "pickled", "requires")


@dataclass(frozen=True)
class Capture:
    """Something that is pickled with a function.

    :param name: as the function calls it, for example "TABLE" or "self.model".
    :param owner: the functions that lead to it, for example "score -> parse".
    :param kind: "code", "global", "default", "keyword default", "closure cell", "annotation" or "attribute".
    :param type: of the value, for example "dict" or "numpy.ndarray".
    :param size: in bytes when pickled, with all that it contains; None if it can't be pickled.
    :param more: it is larger than `size`.
    :param by: "value", or "reference" if it is imported on executors.
    :param modules: the top-level modules that executors import to unpickle it, without Spark and the standard library.
    :param found: whether executors have these modules; None if that is not known.
    """

    name: str
    owner: str
    kind: str
    type: str
    size: int | None
    more: bool
    by: Literal["value", "reference"]
    modules: tuple[str, ...]
    found: bool | None


@dataclass(frozen=True)
class ClosureReport:
    """The result of `inspect_closure`; prints as a table.

    :param function: its name.
    :param size: in bytes when pickled; None if it can't be pickled.
    :param more: it is larger than `size`.
    :param complete: False if it captures too much to list all of it.
    """

    function: str
    size: int | None
    more: bool
    captures: tuple[Capture, ...]
    findings: tuple[Finding, ...]
    complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        data = asdict(self)
        captures = [{**each, "modules": list(each["modules"])} for each in data["captures"]]
        return {**data, "captures": captures, "findings": list(data["findings"])}

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS, title=self._title(), title_justify="left")
        table.columns[4].justify = "right"
        for row in self._rows():
            table.add_row(*map(Text, row))
        text = io.StringIO()
        Console(file=text, width=max(_NARROWEST, shutil.get_terminal_size((120, 24)).columns)).print(table)
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        # Findings are not wrapped, so that they can be searched for and copied.
        return "\n".join([*lines, *(f"{each.level}: {each}" for each in self.findings)])

    def _title(self) -> str:
        size = "can't be pickled" if self.size is None else f"{_number(self.size, self.more)} bytes pickled"
        return f"{self.function}: {size}{'' if self.complete else ', not all of it listed'}"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for each in self.captures:
            size = "can't be pickled" if each.size is None else _number(each.size, each.more)
            found = {True: "found", False: "missing", None: "not known"}[each.found]
            requires = f"{', '.join(each.modules)}: {found}" if each.modules else ""
            yield each.owner, each.name, each.kind, each.type, size, f"by {each.by}", requires


def inspect_closure(
    function: Any,
    *,
    archive: Archive | None = None,
    root: Path | None = None,
    py_files: Sequence[str | Path] = (),
    large: int = LARGE,
) -> ClosureReport:
    """Report what would be pickled with a function, and the problems with it. Nothing is sent.

    It is pickled, and unpickled in a fresh process, unless it is large or needs other packages than PySpark.

    .. code-block:: python

        print(inspect_closure(score))  # a table, and the findings
        inspect_closure(score, archive=archive).findings  # with the modules that the environment does not have

    :param function: a function, a UDF, a UDTF, a bound method, a callable instance or a `functools.partial`.
    :param archive: the environment that executors have. Without it, missing modules are not reported.
    :param root: a directory whose modules are pickled by value, for example the DAG bundle. By default, the modules
        that are registered with cloudpickle.
    :param py_files: what executors are sent in addition to the environment.
    :param large: bytes from which a value should be broadcast.
    :raises InvalidArgumentError: if `function` can't be called.
    """
    function = unwrap(function)
    if not callable(function):
        raise InvalidArgumentError(
            f"Could not inspect a {type(function).__name__}: it is not callable. Pass a function or a UDF."
        )
    modules = ExecutorModules.of(archive, py_files=py_files, root=root)
    with pickle_by_value(root, sent=modules.py_files) if root else nullcontext():
        walk = ClosureWalker()
        walk.start(function)
        report = make_report(function, walk, modules, large=large)
        unpickled = _unpickling_problems(function, walk) if report.size is not None and report.size < LARGE else ()
        return replace(report, findings=(*unpickled, *report.findings))


def make_report(
    function: Any, walk: ClosureWalker, modules: ExecutorModules, *, large: int, limit: int | None = None
) -> ClosureReport:
    """Pickle a function, measure what a walk over it captured, and find the problems with it.

    :param limit: bytes after which measuring a value stops; 1 GB by default.
    """
    sizes = _measure_all(walk, limit or MAX_MEASURED)
    known = {id(each.value): size for each, size in sizes if _is_worth_reusing(each, size)}
    whole = measure(function, known=known)
    if whole.bytes is not None:
        # What the pickler took in another way is no problem.
        sizes = [(each, size) for each, size in sizes if size.bytes is not None]
    captures = tuple(_capture(each, size, modules) for each, size in sizes)
    name, levels = name_of(function), get_args(Level)
    problems = find_problems(walk, whole, sizes, modules, name=name, large=large)
    found = tuple(sorted(problems, key=lambda each: levels.index(each.level)))
    return ClosureReport(name, whole.bytes, whole.more, captures, found, walk.complete)


def _unpickling_problems(function: Any, walk: ClosureWalker) -> Iterator[Finding]:
    """Find what keeps a function from being unpickled: the innermost variable that can't be, or the function."""
    (error,) = unpickling_errors([function])
    if not error:
        return
    captures = [each for each in walk.captures if each.kind not in ("code", "function")]
    fix = "Change how it is pickled (`__reduce__`), or create it inside the function."
    name = owner = name_of(function)
    # Inner values come later in the list.
    for each, reason in zip(captures, unpickling_errors([each.value for each in captures]), strict=True):
        if reason:
            name, owner, error = each.name, " -> ".join(each.owner), reason
            resource = resource_of(each.value)
            fix = FIXES[resource.kind] if resource and resource.kind in SESSION_BOUND else fix
    yield Finding("error", name, owner, f"can be pickled, but not unpickled on executors ({error})", fix)


def _measure_all(walk: ClosureWalker, limit: int) -> list[tuple[CapturedValue, Size]]:
    by_id: dict[int, Size] = {}
    known: dict[int, Size] = {}
    # Inner values come later in the list; measured first, they are not pickled again with the outer ones.
    for each in reversed(walk.captures):
        if id(each.value) in by_id:
            continue
        size = measure(each.value, limit=limit, known=known or None)
        by_id[id(each.value)] = size
        if _is_worth_reusing(each, size):
            known[id(each.value)] = size
    return [(each, by_id[id(each.value)]) for each in walk.captures]


def _is_worth_reusing(each: CapturedValue, size: Size) -> bool:
    # Functions refer to each other, so their sizes can't be added up.
    return not isinstance(each.value, (FunctionType, type)) and size.bytes is not None and size.bytes >= _REUSED


def _capture(each: CapturedValue, size: Size, modules: ExecutorModules) -> Capture:
    kind = type(each.value)
    required = [module for module in size.references if not modules.is_builtin(module)]
    answers = {modules.has(module) for module in required}
    return Capture(
        name=each.name,
        owner=" -> ".join(each.owner),
        kind=each.kind,
        type=kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        size=size.bytes,
        more=size.more,
        by="reference" if each.by_reference else "value",
        modules=tuple(sorted({module.partition(".")[0] for module in required})),
        found=False if False in answers else None if None in answers else True,
    )


def _number(size: int, more: bool) -> str:
    return f"{'more than ' if more else ''}{size:,}"
