"""Plain data read back from JSON, as executors send it and XCom keeps it: builtin values, and no classes to load."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any


def decode(data: Any) -> Any:
    """Return what `executor_side.encode` was given.

    :raises ValueError: it was never encoded so.
    """
    try:
        return _decode(data)
    except (ArithmeticError, AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"it is no plain data: {type(error).__name__}: {error}") from None


def _decode(data: Any) -> Any:
    if isinstance(data, list):
        return [_decode(each) for each in data]
    if not isinstance(data, dict):
        return data
    if "kind" not in data:
        return {key: _decode(each) for key, each in data.items()}
    return _KINDS[data["kind"]](data["value"])


_KINDS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "complex": lambda parts: complex(_decode(parts[0]), _decode(parts[1])),
    "bytes": bytes.fromhex,
    "tuple": lambda each: tuple(map(_decode, each)),
    "set": lambda each: set(map(_decode, each)),
    "frozenset": lambda each: frozenset(map(_decode, each)),
    "dict": lambda pairs: {_decode(key): _decode(value) for key, value in pairs},
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "decimal": Decimal,
}
