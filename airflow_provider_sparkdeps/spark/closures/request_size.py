"""Weighs the functions in each request before it is sent, warns of large ones, and refuses what would do harm."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.closures.findings import LARGE, broadcast_remedy
from airflow_provider_sparkdeps.spark.closures.largest_variable import largest_part
from airflow_provider_sparkdeps.spark.conf import CLOSURE_MAX_SIZE
from airflow_provider_sparkdeps.spark.pyspark_compat import decompress_plan

log = logging.getLogger(__name__)

# In a connection's session conf: what the functions of one request may hold, such as "96m".
# Bytes. Servers take requests up to 128 MB, yet have them in memory several times over, and share that.
LIMIT = 64_000_000
_MOST = 120 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# What holds a pickled function, by the field that has its name; of a foreach of streams nobody knows it.
_NAMED = {
    "CommonInlineUserDefinedFunction": "function_name",
    "CommonInlineUserDefinedTableFunction": "function_name",
    "CommonInlineUserDefinedDataSource": "name",
}
_PICKLED = frozenset(("PythonUDF", "PythonUDTF", "PythonDataSource"))


@dataclass(frozen=True)
class PickledFunction:
    """A pickled function in a request."""

    name: str
    size: int
    command: bytes


class RequestSizeLimit:
    """Weighs what passes; belongs to one session.

    :param session_conf: what the session starts with, which may set the limit.
    :raises InvalidArgumentError: the limit can't be read, or is more than Spark Connect takes.
    """

    def __init__(self, session_conf: Mapping[str, str] | None = None) -> None:
        self._limit = _limit((session_conf or {}).get(CLOSURE_MAX_SIZE))
        # Names, not a lock: PySpark copies what holds this, and gRPC calls it from several threads.
        self._warned: dict[str, None] = {}

    def check(self, request: Any) -> None:
        """Look at the functions in a request, if it is large.

        :raises SessionError: they are larger together than a request may be; names the largest, and its variable.
        """
        # What PySpark has compressed was at least 10 MB before, by the server's defaults.
        if not _is_compressed(request) and request.ByteSize() < min(LARGE, self._limit):
            return
        functions = sorted(_functions(request), key=lambda each: each.size, reverse=True)
        total = sum(each.size for each in functions)
        if total > self._limit:
            fault, remedy = _describe(functions[0])
            if len(functions) > 1:
                fault += f"; the {len(functions)} functions of this query are {total / 1e6:.1f} MB"
            raise SessionError(
                f"{fault}, and a request may hold {self._limit / 1e6:.1f} MB of functions, as the server has them in "
                f"memory several times over: {remedy} (or set {CLOSURE_MAX_SIZE} in the connection's session conf)"
            )
        for each in functions:
            if each.size >= LARGE and each.name not in self._warned:
                self._warned[each.name] = None
                log.warning("%s, which travels with each use in each query: %s", *_describe(each))


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    found = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    if not found or int(found[1]) * _UNITS[found[2]] > _MOST:
        raise InvalidArgumentError(
            f"{CLOSURE_MAX_SIZE} is {text!r}: write a size up to 120m, such as 96m; Spark Connect takes no more"
        )
    return int(found[1]) * _UNITS[found[2]]


def _functions(request: Any) -> Iterator[PickledFunction]:
    """Go through a request's messages without recursion, since plans may be deep."""
    waiting: list[tuple[Any, str]] = [(request, "")]
    while waiting:
        message, name = waiting.pop()
        kind = message.DESCRIPTOR.name
        if kind in _PICKLED:
            command = message.command
            yield PickledFunction(name or "foreach", len(command), command)
            continue
        if kind == "LocalRelation":
            continue  # data, which may be large
        if kind == "CompressedOperation":
            message = decompress_plan(message)
        if kind in _NAMED:
            name = getattr(message, _NAMED[kind])
        for descriptor, value in message.ListFields():
            if descriptor.message_type is None:
                continue
            if descriptor.message_type.GetOptions().map_entry:
                entries = value.values() if descriptor.message_type.fields_by_name["value"].message_type else ()
                waiting += [(entry, name) for entry in entries]
            elif hasattr(value, "DESCRIPTOR"):
                waiting.append((value, name))
            else:
                waiting += [(entry, name) for entry in value]


def _is_compressed(request: Any) -> bool:
    name = request.DESCRIPTOR.name
    if name == "AnalyzePlanRequest":
        request = getattr(request, request.WhichOneof("analyze") or "", None)
    elif name != "ExecutePlanRequest":
        return False
    plan = getattr(request, "plan", None)
    return plan is not None and plan.WhichOneof("op_type") == "compressed_operation"


def _describe(function: PickledFunction) -> tuple[str, str]:
    """Say how large a function is and what of, and what to do about it."""
    part = largest_part(function.command)
    text = f"function {function.name!r} is {function.size / 1e6:.1f} MB pickled"
    if part is None:
        return text, broadcast_remedy(None)
    owner = "" if part.owner in (("?",), (function.name,)) else f" (in {' -> '.join(part.owner)})"
    size = f"{part.size / 1e6:.1f} MB of it" if part.read else "much of it"
    return f"{text}, {size} in its variable `{part.name}`{owner}", broadcast_remedy(part.name)
