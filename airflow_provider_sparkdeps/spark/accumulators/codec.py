"""Encodes accumulator values as JSON and decodes them; runs on executors, too."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from collections.abc import Callable
from typing import Any

NUMBERS = (int, float, complex, decimal.Decimal)
NAN = float("nan")
"""NaN differs from itself, but sets and dicts find this object in them."""


def encode(value: Any) -> Any:
    """Return a value as JSON can represent it; types that JSON does not have as `{"kind": ..., "value": ...}`.

    :raises TypeError: if the value is not supported.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"kind": "float", "value": repr(float(value))}
    if isinstance(value, str):
        # Not `str(value)`, which is the name of a member of an enum.
        return str.__str__(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None  # pandas.NA, pandas.NaT
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, dict):
        # Airflow reserves keys with two underscores.
        if all(type(key) is str and key != "kind" and key[:2] != "__" for key in value):
            return {key: encode(each) for key, each in value.items()}
        return {"kind": "dict", "value": [[encode(key), encode(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"kind": "tuple", "value": [encode(each) for each in value]}
    if isinstance(value, (set, frozenset)):
        kind = "set" if isinstance(value, set) else "frozenset"
        return {"kind": kind, "value": sorted((encode(each) for each in value), key=json.dumps)}
    if isinstance(value, complex):
        return {"kind": "complex", "value": [encode(value.real), encode(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {"kind": "bytes", "value": value.hex()}
    if isinstance(value, datetime.datetime):
        precise = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
        return {"kind": "datetime", "value": precise.isoformat()}
    if isinstance(value, datetime.date):
        return {"kind": "date", "value": value.isoformat()}
    if isinstance(value, decimal.Decimal):
        return {"kind": "decimal", "value": str(value)}
    if (converted := plain(value)) is not value:
        return encode(converted)
    raise TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} is not supported. Use numbers, strings, bytes, dates, "
        "and lists, tuples, sets or dicts of them."
    )


def plain(value: Any) -> Any:
    """Return a scalar of numpy as Python's own; other values unchanged."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    if getattr(value.dtype, "kind", "") in "mM":
        # Without a unit that Python's own types have, `item` returns a number.
        value = value.astype(f"{value.dtype.kind}8[us]")
    return value.item()


def canonical(value: Any) -> Any:
    """Return an element of a set or a key, in which all NaN are one object and pandas' nulls are None."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(canonical, value))
    if isinstance(value, frozenset):
        return frozenset(map(canonical, value))
    if is_null(value):
        return NAN if isinstance(value, float) else None
    return value


def is_null(value: Any) -> bool:
    """Return whether a value is None, NaN, or a null of pandas."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def decode(data: Any) -> Any:
    """Return the value that `encode` was called with. Only builtin types are created.

    :raises ValueError: if `encode` did not return this.
    """
    try:
        return _decode(data)
    except (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"not an encoded value ({type(error).__name__}: {error})") from None


def _decode(data: Any) -> Any:
    if isinstance(data, list):
        return [_decode(each) for each in data]
    if not isinstance(data, dict):
        return data
    if "kind" not in data:
        return {key: _decode(each) for key, each in data.items()}
    return _DECODERS[data["kind"]](data["value"])


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "float": lambda text: NAN if text == "nan" else float(text),
    "complex": lambda parts: complex(_decode(parts[0]), _decode(parts[1])),
    "bytes": bytes.fromhex,
    "tuple": lambda each: tuple(map(_decode, each)),
    "set": lambda each: set(map(_decode, each)),
    "frozenset": lambda each: frozenset(map(_decode, each)),
    "dict": lambda pairs: {_decode(key): _decode(value) for key, value in pairs},
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "decimal": decimal.Decimal,
}
