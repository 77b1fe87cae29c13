"""Reads the accumulator updates that executors send, without loading a class."""

from __future__ import annotations

import json
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any, NamedTuple

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators.codec import decode
from airflow_provider_sparkdeps.spark.pyspark_compat import accumulator_serializer

PREFIX = "sparkdeps-accumulator"
# The opcodes of a tuple of two strings. None of them can name a class, call a function or reserve memory.
_HARMLESS = frozenset({"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "TUPLE2", "STOP"})

_NAMING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})


@dataclass(frozen=True)
class FailedUpdate:
    """Takes the place of a value that an executor could not send."""

    message: str


class UpdateKey(NamedTuple):
    """One pickled use of an accumulator, and where Spark evaluated it."""

    accumulator_id: str
    nonce: str
    position: str
    partition: int


class Update(NamedTuple):
    """What one task added through one use."""

    operation: str
    key: UpdateKey
    adds: int
    value: Any


def make_token(accumulator_id: str, nonce: str) -> str:
    """Return the string that identifies a use, where it is pickled."""
    return f"{PREFIX}:{accumulator_id}:{nonce}"


def read_update(pickled: bytes) -> Update | None:
    """Return an update of this package; None for another update that PySpark's client can read safely.

    :raises SessionError: if it can't be read, or reading it is not safe.
    """
    if PREFIX.encode() not in pickled:
        _check_foreign_update(pickled)
        return None
    try:
        token, text = _loads_strings(pickled)
        _, accumulator_id, nonce = token.split(":")
        operation, position, partition, adds, data = json.loads(text)
        if [*map(type, (operation, position, partition, adds))] != [str, str, int, int]:
            raise ValueError("its fields have other types")  # noqa: TRY301 (one handler for all)
        failed = isinstance(data, dict) and data.get("kind") == "error"
        value = FailedUpdate(str(data.get("value"))) if failed else decode(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(error) from None
    return Update(operation, UpdateKey(accumulator_id, nonce, position, partition), adds, value)


def unreadable(reason: object) -> SessionError:
    """Return the error for an update that can't have come from this package's code on executors."""
    return SessionError(
        f"Could not read an accumulator update from an executor: {reason}. It was not used. Check what else runs on "
        "this cluster."
    )


def _loads_strings(pickled: bytes) -> tuple[str, str]:
    """Unpickle a pair of strings.

    :raises ValueError: if the pickle contains anything else.
    """
    for opcode, _, _ in pickletools.genops(pickled):
        if opcode.name not in _HARMLESS:
            raise ValueError(f"its pickle contains {opcode.name}")
    try:
        pair = pickle.loads(pickled)  # noqa: S301 (only harmless opcodes are left)
    except (pickle.UnpicklingError, IndexError, EOFError) as error:
        raise ValueError(str(error)) from None
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
        raise ValueError("it is not a pair of strings")
    return pair


def _check_foreign_update(pickled: bytes) -> None:
    """Refuse an update that names a class. PySpark drops it without an error since 4.3, and loaded it before."""
    try:
        if serializer := accumulator_serializer():
            # It allows only the class that Spark's own UDF profiler sends.
            serializer.loads(pickled)
            return
        named = [opcode.name for opcode, _, _ in pickletools.genops(pickled) if opcode.name in _NAMING]
    except Exception as error:  # noqa: BLE001 (a broken pickle may raise anything)
        raise unreadable(error) from None
    if named:
        raise SessionError(
            "An executor sent an accumulator update that names a class, which this version of PySpark would load. "
            "Upgrade pyspark on the worker to 4.3, or do not use the UDF profiler."
        )
