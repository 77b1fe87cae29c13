"""Accumulator values survive JSON, and other data is refused."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from airflow_provider_sparkdeps.spark.accumulators.codec import decode, encode

VALUES = [
    None,
    True,
    7,
    2**70,
    0.5,
    -math.inf,
    "Grüße",
    1 - 2j,
    b"\x00\xff",
    (1, ("a", None)),
    {"a", 1, (2, 3)},
    frozenset({b"x"}),
    {"a": [1, {"b": 2}]},
    {1: "a", (2, "b"): {"kind": "x"}},
    {"kind": "max", "value": 1},
    {"__classname__": "os"},
    Decimal("1.10"),
    date(2026, 11, 20),
    datetime(2026, 11, 20, 17, 0, 0, 123, tzinfo=UTC),
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_values_survive_json_without_loss(value: object) -> None:
    decoded = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert decoded == value
    assert type(decoded) is type(value)


def test_the_type_of_a_value_that_is_not_supported_is_named() -> None:
    with pytest.raises(TypeError, match=r"builtins\.object is not supported\. Use numbers"):
        encode([object()])
    assert math.isnan(decode(encode(math.nan)))


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "os.system", "value": "true"},
        {"kind": "set", "value": [[1]]},
        {"kind": "set"},
        {"kind": []},
        {"kind": "decimal", "value": "1.1.1"},
        {"kind": "dict", "value": [1]},
        [{"kind": "complex", "value": [1]}],
    ],
)
def test_data_that_was_not_encoded_is_an_error(data: object) -> None:
    with pytest.raises(ValueError, match="not an encoded value"):
        decode(data)
