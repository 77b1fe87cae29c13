"""What would travel to executors with a function, as a table and as data, and what is wrong with it."""

from __future__ import annotations

import importlib.util
import io
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.closures.executor_modules import ExecutorModules
from airflow_provider_sparkdeps.spark.closures.findings import LARGE, Finding, Level, find
from airflow_provider_sparkdeps.spark.closures.pickled_size import MAX_MEASURED, Size, measure
from airflow_provider_sparkdeps.spark.closures.walker import CapturedValue, ClosureWalker, name_of, unwrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_sparkdeps.archives import Archive

# Bytes from which a value's size is reused when what holds it is measured.
_REUSED = 4096
_NARROWEST = 100
_COLUMNS = ("owner", "name", "kind", "type", "bytes", "travels", "executors need")


@dataclass(frozen=True)
class Capture:
    """Something that travels with a function.

    :param name: as the function calls it, such as "TABLE" or "self.model".
    :param owner: the functions that lead to it, such as "score -> parse".
    :param kind: "code", "global", "default", "keyword default", "closure cell", "annotation" or "attribute".
    :param type: of the value, such as "dict" or "numpy.ndarray".
    :param size: pickled, with all that it holds, in bytes; None if it can't be pickled.
    :param more: it is larger than `size`.
    :param by: "value", or "reference": the names of its module and its own.
    :param modules: what executors need to unpickle it, without Spark and the standard library.
    :param found: whether they have these; None if that is not known.
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
    """What `inspect_closure` saw; prints as a table.

    :param function: its name.
    :param size: of the whole, pickled, in bytes; None if it can't be pickled.
    :param more: it is larger than that.
    :param complete: False if it captures so much that not all of it is listed.
    """

    function: str
    size: int | None
    more: bool
    captures: tuple[Capture, ...]
    findings: tuple[Finding, ...]
    complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = asdict(self)
        captures = [{**each, "modules": list(each["modules"])} for each in data["captures"]]
        return {**data, "captures": captures, "findings": list(data["findings"])}

    def __str__(self) -> str:
        table = self._plain() if importlib.util.find_spec("rich") is None else self._rich()
        # Each on a line of its own, however long, so that it can be searched for and copied.
        return "\n".join([table, *(f"{each.level}: {each}" for each in self.findings)])

    def _rich(self) -> str:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS, title=self._title(), title_justify="left")
        table.columns[4].justify = "right"
        for row in self._rows():
            table.add_row(*map(Text, row))
        text = io.StringIO()
        Console(file=text, width=max(_NARROWEST, shutil.get_terminal_size((120, 24)).columns)).print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _plain(self) -> str:
        rows = [_COLUMNS, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._title(), *lines])

    def _title(self) -> str:
        size = "can't be pickled" if self.size is None else f"{_number(self.size, self.more)} bytes pickled"
        return f"{self.function}: {size}{'' if self.complete else ', not all of it listed'}"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for each in self.captures:
            size = "can't be pickled" if each.size is None else _number(each.size, each.more)
            found = {True: "found", False: "missing", None: "not known"}[each.found]
            needs = f"{', '.join(each.modules)}: {found}" if each.modules else ""
            yield each.owner, each.name, each.kind, each.type, size, f"by {each.by}", needs


def inspect_closure(
    function: Any,
    *,
    archive: Archive | None = None,
    root: Path | None = None,
    py_files: Sequence[str | Path] = (),
    large: int = LARGE,
) -> ClosureReport:
    """Say what would travel to executors with a function, and what is wrong with that; sends and changes nothing.

    ```python
    print(inspect_closure(score))                         # a table, and findings
    inspect_closure(score, archive=archive).findings      # with what the environment lacks
    ```

    :param function: a function, a UDF, a UDTF, a bound method, a callable instance or a `functools.partial`.
    :param archive: the environment that executors have; without one, nothing is said of modules that it may lack.
    :param root: a directory whose modules travel by value, such as the DAG bundle; as things are, if left out.
    :param py_files: what executors are sent beside the environment.
    :param large: bytes from which a value should be broadcast.
    :raises InvalidArgumentError: it can't be called.
    """
    function = unwrap(function)
    if not callable(function):
        raise InvalidArgumentError(
            f"inspect_closure: a {type(function).__name__} can't be called: give a function or a UDF"
        )
    modules = ExecutorModules.of(archive, py_files=py_files, root=root)
    with pickle_by_value(root) if root else nullcontext():
        walk = ClosureWalker()
        walk.start(function)
        return make_report(function, walk, modules, name=name_of(function), large=large)


def make_report(
    function: Any, walk: ClosureWalker, modules: ExecutorModules, *, name: str, large: int, limit: int | None = None
) -> ClosureReport:
    """Measure what a walk came by, and look for what is wrong with it.

    :param function: the whole; None if it is not there yet.
    :param limit: bytes after which measuring a value stops; 1 GB by default.
    """
    sizes = _measure_all(walk, limit or MAX_MEASURED)
    known = {id(each.value): size for each, size in sizes if _is_worth_reusing(each, size)}
    whole = measure(function, known=known) if function is not None else Size(None)
    broken = any(size.bytes is None for _, size in sizes)
    captures = tuple(_capture(each, size, modules) for each, size in sizes)
    levels = get_args(Level)
    found = tuple(sorted(find(walk, sizes, modules, large=large), key=lambda each: levels.index(each.level)))
    return ClosureReport(name, None if broken else whole.bytes, whole.more, captures, found, walk.complete)


def _measure_all(walk: ClosureWalker, limit: int) -> list[tuple[CapturedValue, Size]]:
    by_id: dict[int, Size] = {}
    known: dict[int, Size] = {}
    # What is captured further in comes later, and is not measured again with what holds it.
    for each in reversed(walk.captures):
        if id(each.value) in by_id:
            continue
        size = measure(each.value, limit=limit, known=known or None)
        by_id[id(each.value)] = size
        if _is_worth_reusing(each, size):
            known[id(each.value)] = size
    return [(each, by_id[id(each.value)]) for each in walk.captures]


def _is_worth_reusing(each: CapturedValue, size: Size) -> bool:
    # Functions hold one another, so that their sizes can't be added up.
    return not isinstance(each.value, (FunctionType, type)) and size.bytes is not None and size.bytes >= _REUSED


def _capture(each: CapturedValue, size: Size, modules: ExecutorModules) -> Capture:
    kind = type(each.value)
    needed = [module for module in size.references if not modules.is_everywhere(module)]
    answers = {modules.has(module) for module in needed}
    return Capture(
        name=each.name,
        owner=" -> ".join(each.owner),
        kind=each.kind,
        type=kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        size=size.bytes,
        more=size.more,
        by="reference" if each.by_reference else "value",
        modules=tuple(sorted({module.partition(".")[0] for module in needed})),
        found=False if False in answers else None if None in answers else True,
    )


def _number(size: int, more: bool) -> str:
    return f"{'more than ' if more else ''}{size:,}"
