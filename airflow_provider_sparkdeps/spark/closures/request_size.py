"""Checks the size of the pickled functions in each request: warns about large ones, and refuses too large ones."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.closures.findings import LARGE, how_to_broadcast
from airflow_provider_sparkdeps.spark.closures.largest_variable import largest_variable
from airflow_provider_sparkdeps.spark.conf import CLOSURE_MAX_SIZE
from airflow_provider_sparkdeps.spark.pyspark_compat import decompress_plan

log = logging.getLogger(__name__)

# Bytes. Servers accept requests up to 128 MB, but keep each in memory several times.
LIMIT = 64_000_000
_MOST = 120 << 20
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
# Message -> its field with the name of the function that it contains. Functions of `foreach` have no name.
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
    """Checks the requests of one session.

    :param session_conf: the conf that the session starts with, which may set the limit.
    :raises InvalidArgumentError: if the limit is not a size, or is more than Spark Connect accepts.
    """

    def __init__(self, session_conf: Mapping[str, str] | None = None) -> None:
        self._limit = _limit((session_conf or {}).get(CLOSURE_MAX_SIZE))
        # Names, not a lock: PySpark copies what holds this, and gRPC calls it from several threads.
        self._warned: dict[str, None] = {}

    def check(self, request: Any) -> None:
        """Check the total size of the functions in a request.

        :raises SessionError: if it is over the limit; the message names the largest function and its largest variable.
        """
        # By default, PySpark compresses only plans of 10 MB or more.
        if not _is_compressed(request) and request.ByteSize() < min(LARGE, self._limit):
            return
        functions = sorted(_functions(request), key=lambda each: each.size, reverse=True)
        total = sum(each.size for each in functions)
        if total > self._limit:
            subject = f"Function {functions[0].name!r} is" if len(functions) == 1 else f"{len(functions)} functions are"
            raise SessionError(
                f"{subject} too large to send: {total / 1e6:.1f} MB pickled is over the limit of "
                f"{self._limit / 1e6:.1f} MB, which protects the memory of the server. {_advise(functions[0])} Or set "
                f"{CLOSURE_MAX_SIZE} in the connection's session conf."
            )
        for each in functions:
            if each.size >= LARGE and each.name not in self._warned:
                self._warned[each.name] = None
                size = f"{each.size / 1e6:.1f} MB"
                log.warning("Function %r adds %s to every query that uses it. %s", each.name, size, _advise(each))


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT
    found = re.fullmatch(r"(\d+)([kmg]?)b?", text.strip().lower())
    if not found or int(found[1]) * _UNITS[found[2]] > _MOST:
        raise InvalidArgumentError(
            f"{CLOSURE_MAX_SIZE}={text!r} is not a size up to 120m, which is the most that Spark Connect accepts. "
            "Write for example 96m."
        )
    return int(found[1]) * _UNITS[found[2]]


def _functions(request: Any) -> Iterator[PickledFunction]:
    """Yield the functions in a request. Plans may be too deep for recursion."""
    waiting: list[tuple[Any, str]] = [(request, "")]
    while waiting:
        message, name = waiting.pop()
        kind = message.DESCRIPTOR.name
        if kind in _PICKLED:
            command = message.command
            yield PickledFunction(name or "foreach", len(command), command)
            continue
        if kind == "LocalRelation":
            continue  # data, without functions
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


def _advise(function: PickledFunction) -> str:
    """Return the largest variable of a function and what to do, as sentences."""
    variable = largest_variable(function.command)
    if variable is None:
        return how_to_broadcast(None)
    owner = "" if variable.owner in ((), (function.name,)) else f" in {' -> '.join(variable.owner)}"
    return f"The largest variable of {function.name!r} is `{variable.name}`{owner}. {how_to_broadcast(variable.name)}"
