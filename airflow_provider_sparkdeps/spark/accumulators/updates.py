"""Accumulator updates as executors send them: read without loading a class, or refused."""

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
# What two strings in a tuple need; nothing here can name a class, call a function or reserve memory.
_HARMLESS = frozenset({"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "TUPLE2", "STOP"})

_NAMING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})


@dataclass(frozen=True)
class Refused:
    """What stands for a value that an executor could not send: its words."""

    words: str


class Use(NamedTuple):
    """One pickled use of an accumulator, where it was evaluated."""

    owner: str
    nonce: str
    place: str
    partition: int


class Update(NamedTuple):
    """What one task added by one use."""

    operation: str
    use: Use
    adds: int
    value: Any


def make_token(owner: str, nonce: str) -> str:
    """Return the text that stands for a use, where it is pickled."""
    return f"{PREFIX}:{owner}:{nonce}"


def read_update(pickled: bytes) -> Update | None:
    """Return an update; None if it is none of ours, and safe for PySpark's client.

    :raises SessionError: it can't be read, or may not be.
    """
    if PREFIX.encode() not in pickled:
        _refuse_unrestricted(pickled)
        return None
    try:
        token, text = _loads_strings(pickled)
        _, owner, nonce = token.split(":")
        operation, place, partition, adds, data = json.loads(text)
        if [*map(type, (operation, place, partition, adds))] != [str, str, int, int]:
            raise ValueError("its parts have other types")  # noqa: TRY301 (one handler for all)
        refused = isinstance(data, dict) and data.get("kind") == "error"
        value = Refused(str(data.get("value"))) if refused else decode(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(error) from None
    return Update(operation, Use(owner, nonce, place, partition), adds, value)


def unreadable(error: object) -> SessionError:
    """Return the error for an update that is not what our executor side sends."""
    return SessionError(
        f"an executor sent an accumulator update that can't be read ({error}); nothing of it was used. "
        "Look at what runs on this cluster beside your UDFs."
    )


def _loads_strings(pickled: bytes) -> tuple[str, str]:
    """Unpickle a pair of strings, and nothing else.

    :raises ValueError: the pickle holds anything else.
    """
    for opcode, _, _ in pickletools.genops(pickled):
        if opcode.name not in _HARMLESS:
            raise ValueError(f"its pickle wants {opcode.name}")
    try:
        pair = pickle.loads(pickled)  # noqa: S301 (only harmless opcodes are left)
    except (pickle.UnpicklingError, IndexError, EOFError) as error:
        raise ValueError(str(error)) from None
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
        raise ValueError("it is not a pair of strings")
    return pair


def _refuse_unrestricted(pickled: bytes) -> None:
    """Refuse what names a class: PySpark drops it without an error from 4.3 on, and would load it before."""
    try:
        if serializer := accumulator_serializer():
            # Its allow-list has the one class that Spark's own UDF profiler sends.
            serializer.loads(pickled)
            return
        named = [opcode.name for opcode, _, _ in pickletools.genops(pickled) if opcode.name in _NAMING]
    except Exception as error:  # noqa: BLE001 (a broken pickle may raise anything)
        raise unreadable(error) from None
    if named:
        raise SessionError(
            "an executor sent an accumulator update that names a class; this PySpark would load it. "
            "Upgrade the worker's pyspark to 4.3, or do without the UDF profiler."
        )
