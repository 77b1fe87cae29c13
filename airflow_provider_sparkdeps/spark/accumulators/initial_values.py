"""What accumulators may be started from: numbers, kinds, an upstream task's XCom, templates of these."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators.codec import decode
from airflow_provider_sparkdeps.spark.accumulators.kinds import (
    NUMBERS,
    ApproxCountDistinct,
    CounterOf,
    DistinctCount,
    Kind,
    ListOf,
    Max,
    Min,
    SetOf,
    Sum,
)
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam


def check_initial_values(values: Any) -> dict[str, Kind]:
    """Return accumulators' initial values, by name, as kinds.

    :param values: name -> a number, a kind, what XCom keeps of one, or the text of these (templates render to text).
    :raises InvalidArgumentError: it is no mapping, a name is no identifier, a value can't be meant.
    """
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(
            f"accumulators is a {type(values).__name__}; write a dict of names and initial values, "
            'such as {"bad_rows": 0}'
        )
    return {check_name(name): to_kind(name, value) for name, value in values.items()}


def check_name(name: Any) -> str:
    """Return `name` if it can name an accumulator.

    :raises InvalidArgumentError: it is no identifier.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidArgumentError(
            f"accumulator name {name!r} is no identifier: use letters, digits and '_', not starting with a digit"
        )
    return name


def to_kind(name: str, value: Any) -> Kind:
    """Return the kind of accumulator that an initial value means.

    :raises InvalidArgumentError: it means none.
    """
    if isinstance(value, Kind):
        return value
    if isinstance(value, DistinctCount):
        return ApproxCountDistinct(value)
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, Mapping):
        with contextlib.suppress(KeyError):
            return _of_xcom(name, value)
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        raise InvalidArgumentError(
            f"accumulator {name!r} starts from {value!r} ({type(value).__name__}): write an int or a float to sum up, "
            "a kind such as Max(), SetOf() or CounterOf(), or WithParam(YourAccumulatorParam(), value)"
        )
    return Sum(value)


def decode_accumulators(accumulators: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an upstream task's `accumulators` in XCom say, by name, as Python's own sets, Counters, ...

    :param accumulators: the XCom.
    :raises InvalidArgumentError: it is no such thing.
    """
    return {name: kind.value for name, kind in check_initial_values(accumulators).items()}


def _of_xcom(name: str, data: Mapping[str, Any]) -> Kind:
    word, limits = data["kind"], {"limit": data["limit"]} if "limit" in data else {}
    try:
        if word in ("min", "max"):
            return (Min if word == "min" else Max)(decode(data["value"]))
        if word == "set":
            return SetOf(decode({"kind": "set", "value": data["value"]}), **limits)
        if word == "list":
            return ListOf(decode(data["value"]), **limits)
        if word == "counter":
            return CounterOf(decode(data["value"]), **limits)
        if word == "approx_distinct":
            return ApproxCountDistinct(DistinctCount(data["value"], bytes.fromhex(data["sketch"])), lg_k=data["lg_k"])
        if word == "param":
            return WithParam(None, decode(data["value"]))
        return Sum(decode(dict(data)))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"accumulator {name!r} starts from a dict that no upstream task's `accumulators` holds ({error}): "
            "write a kind such as Max() or CounterOf()"
        ) from None


def _parsed(text: str) -> Any:
    """Return what a rendered template says, in the words of JSON or of Python."""
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    return text
