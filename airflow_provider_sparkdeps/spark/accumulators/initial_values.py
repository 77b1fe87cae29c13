"""Converts what users start accumulators from to kinds: numbers, kinds, an upstream task's XCom, and templates."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, InvalidTypeError
from airflow_provider_sparkdeps.spark.accumulators.codec import NUMBERS, decode
from airflow_provider_sparkdeps.spark.accumulators.distinct import ApproxCountDistinct, DistinctCount
from airflow_provider_sparkdeps.spark.accumulators.kinds import (
    AccumulatorKind,
    CounterOf,
    ListOf,
    Max,
    Min,
    SetOf,
    Sum,
)
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam
from airflow_provider_sparkdeps.utils.text import parse_template


def check_initial_values(values: Any) -> dict[str, AccumulatorKind]:
    """Return accumulators' initial values as kinds, by name.

    :param values: name -> a number, a kind, its value in XCom, or one of these as a string (rendered templates).
    :raises InvalidArgumentError: if this is not a mapping, or a name or a value is invalid.
    """
    values = parse_template(values)
    if not isinstance(values, Mapping):
        raise InvalidArgumentError(
            f"accumulators is a {type(values).__name__}. Use a dict of names and initial values, for example "
            '{"bad_rows": 0}.'
        )
    return {check_name(name): to_kind(name, value) for name, value in values.items()}


def check_name(name: Any) -> str:
    """Return the name of an accumulator.

    :raises InvalidArgumentError: if it is not an identifier.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidArgumentError(
            f"Accumulator name {name!r} is not an identifier. Use letters, digits and '_', and start with a letter."
        )
    return name


def to_kind(name: str, value: Any) -> AccumulatorKind:
    """Return the kind of accumulator that an initial value stands for.

    :raises InvalidArgumentError: if there is none.
    """
    if isinstance(value, AccumulatorKind):
        return value
    if isinstance(value, DistinctCount):
        return ApproxCountDistinct(value)
    value = parse_template(value)
    if isinstance(value, Mapping):
        with contextlib.suppress(KeyError):
            return _from_xcom(name, value)
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        raise InvalidTypeError(
            f"Accumulator {name!r} can't start from {value!r} ({type(value).__name__}). Use an int or a float for a "
            "sum, a kind such as Max(), SetOf() or CounterOf(), or WithParam(YourParam(), value)."
        )
    return Sum(value)


def decode_accumulators(accumulators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an upstream task's `accumulators` in XCom as Python objects (sets, Counters, ...).

    :param accumulators: the XCom, by name of the accumulator.
    :raises InvalidArgumentError: if this is not such an XCom.
    """
    return {name: kind.value for name, kind in check_initial_values(accumulators).items()}


def _from_xcom(name: str, data: Mapping[str, Any]) -> AccumulatorKind:
    kind, limits = data["kind"], {"limit": data["limit"]} if "limit" in data else {}
    try:
        if kind in ("min", "max"):
            return (Min if kind == "min" else Max)(decode(data["value"]))
        if kind == "set":
            return SetOf(decode({"kind": "set", "value": data["value"]}), **limits)
        if kind == "list":
            return ListOf(decode(data["value"]), **limits)
        if kind == "counter":
            return CounterOf(decode(data["value"]), **limits)
        if kind == "approx_distinct":
            return ApproxCountDistinct(DistinctCount(data["value"], bytes.fromhex(data["sketch"])), lg_k=data["lg_k"])
        if kind == "param":
            return WithParam(None, decode(data["value"]))
        return Sum(decode(dict(data)))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"Accumulator {name!r} can't start from this dict: it is not from an upstream task's `accumulators` "
            f"({error}). Use a kind such as Max() or CounterOf()."
        ) from None
