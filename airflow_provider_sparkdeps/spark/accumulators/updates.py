"""Reads the accumulator updates that executors send, without loading a class."""

from __future__ import annotations

import json
import pickle
import pickletools
from dataclasses import dataclass
from typing import NamedTuple

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators.codec import decode
from airflow_provider_sparkdeps.spark.accumulators.counting import Evaluation
from airflow_provider_sparkdeps.spark.accumulators.uses import PREFIX
from airflow_provider_sparkdeps.spark.pyspark_compat import accumulator_serializer

# The opcodes of a tuple of two strings. None of them can name a class, call a function or reserve memory.
_HARMLESS = frozenset({"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "TUPLE2", "STOP"})

_NAMING = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})


@dataclass(frozen=True)
class FailedUpdate:
    """Takes the place of a value that an executor could not send."""

    message: str


class Update(NamedTuple):
    """What one evaluation of a use added.

    :param operation: Spark Connect's id of it.
    :param batch: the number of the batch, if the operation is a stream.
    :param use: the id of the accumulator, and the nonce of the use.
    """

    operation: str
    batch: str
    use: tuple[str, str]
    evaluation: Evaluation


def make_token(accumulator_id: str, nonce: str = "0" * 32) -> str:
    """Return the string that identifies a use, where it is pickled. Its nonce is set in the request that sends it."""
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
        operation, batch, *fields, data = json.loads(text)
        if [*map(type, (operation, batch, *fields))] != [str, str, int, int, int, str, int, int, int, int]:
            raise ValueError("its fields have other types")  # noqa: TRY301 (one handler for all)
        failed = isinstance(data, dict) and data.get("kind") == "error"
        value = FailedUpdate(str(data.get("value"))) if failed else decode(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(error) from None
    return Update(operation, batch, (accumulator_id, nonce), Evaluation._make((*fields, value)))


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
    """Refuse an update that names a class. PySpark drops it without an error, and older releases load it."""
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
            "Upgrade pyspark on the worker to the latest release of its version, or do not use the UDF profiler."
        )
