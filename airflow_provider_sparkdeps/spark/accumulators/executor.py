"""The only code that travels to executors: pickled by value, it needs only PySpark and the standard library there."""

from __future__ import annotations

import datetime
import decimal
import json
import math
from typing import Any

MOST_BYTES = 1_000_000
"""How long the update of one accumulator by one task may be: all updates of a query come back in one response, which
may have 2 GB."""


def encode(value: Any) -> Any:
    """Return plain data as JSON can say it; what JSON has no word for as `{"kind": ..., "value": ...}`.

    :raises TypeError: it is no plain data.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"kind": "float", "value": repr(float(value))}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, dict):
        # Airflow keeps keys with two underscores to itself.
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
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return encode(value.item())
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} is no plain data: make it numbers, texts, bytes, "
        "dates, lists, tuples, sets or dicts of them"
    )


class ExecutorSum:
    """What an accumulator is on an executor, here a sum: it can be added to, and reports when the task ends."""

    __slots__ = ("_name", "_where", "adds", "total")

    def __init__(self, name: str, where: tuple[str, str, int], total: Any) -> None:
        self._name = name
        self._where = where
        self.adds = 0
        self.total = total

    def add(self, term: Any) -> None:
        self.total += term
        self.adds += 1

    def __iadd__(self, term: Any) -> ExecutorSum:
        self.add(term)
        return self

    @property
    def value(self) -> Any:
        raise RuntimeError(
            f"accumulator {self._name!r} can only be added to on executors: read its value in the task's callable, "
            "after the action"
        )

    @value.setter
    def value(self, value: Any) -> None:
        raise RuntimeError(
            f"accumulator {self._name!r} can only be added to on executors: set its value in the task's callable"
        )

    def result(self) -> Any:
        """Return what the terms make, as plain data."""
        return self.total

    @property
    def _value(self) -> str:
        """Spark's worker reads this when the task ends; text, so that nothing is unpickled on the other side."""
        try:
            text = json.dumps([*self._where, self.adds, self._plain(self.result())])
            self._check_bytes(len(text))
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            # An error here would be a crash of Spark's worker, without a word: the other side raises it.
            text = json.dumps([*self._where, self.adds, {"kind": "error", "value": str(error)}])
        return text

    def _plain(self, value: Any) -> Any:
        try:
            return encode(value)
        except TypeError as error:
            raise TypeError(f"accumulator {self._name!r} was given what can't be sent: {error}") from None

    def _check_bytes(self, count: int) -> None:
        if count > MOST_BYTES:
            raise RuntimeError(
                f"accumulator {self._name!r} grew past {MOST_BYTES:,} bytes in one task, the most that its update may "
                "take: add less or something coarser to it, or write what you collect as a column"
            )


class ExecutorMax(ExecutorSum):
    """The greatest term; as in SQL, nulls don't count, and neither does NaN."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if term is not None and term == term and (self.total is None or term > self.total):
            self.total = term


class ExecutorMin(ExecutorSum):
    """The least term; as in SQL, nulls don't count, and neither does NaN."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if term is not None and term == term and (self.total is None or term < self.total):
            self.total = term


class Growing(ExecutorSum):
    """What is kept of many terms, up to a number of them and a number of bytes."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, name: str, where: tuple[str, str, int], total: Any, limit: int) -> None:
        ExecutorSum.__init__(self, name, where, total)
        self._limit = limit
        self._bytes = 0

    def _grow(self, term: Any) -> None:
        self._bytes += len(json.dumps(self._plain(term))) + 2
        self._check_bytes(self._bytes)

    def _check_limit(self) -> None:
        if len(self.total) >= self._limit:
            raise RuntimeError(
                f"accumulator {self._name!r} grew past its limit of {self._limit:,} different values: raise `limit`, "
                "or add something coarser to it"
            )


class ExecutorSet(Growing):
    """A set; a set is united with it, and anything else is an element."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        for element in term if isinstance(term, (set, frozenset)) else (term,):
            if element not in self.total:
                self._check_limit()
                self._grow(element)
                self.total.add(element)


class ExecutorList(Growing):
    """A list of the first terms."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if len(self.total) < self._limit:
            self._grow(term)
            self.total.append(term)


class ExecutorCounter(Growing):
    """A sum for each key: a dict is amounts by key, and anything else is a key that came up once."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        for key, amount in term.items() if isinstance(term, dict) else ((term, 1),):
            if key in self.total:
                self.total[key] += amount
            else:
                self._check_limit()
                self._grow((key, amount))
                self.total[key] = amount


class ExecutorSketch(ExecutorSum):
    """An estimate of how many different terms there were; as in SQL, nulls don't count."""

    __slots__ = ()

    def __init__(self, name: str, where: tuple[str, str, int], lg_k: int) -> None:
        try:
            from datasketches import hll_sketch, tgt_hll_type
        except ImportError:
            raise RuntimeError(
                f"accumulator {name!r} is an ApproxCountDistinct, which needs the package datasketches on executors: "
                "add it "
                "to the environment's requirements"
            ) from None
        ExecutorSum.__init__(self, name, where, hll_sketch(lg_k, tgt_hll_type.HLL_8))

    def add(self, term: Any) -> None:
        self.adds += 1
        if term is not None:
            plain = self._plain(term)
            same = int(plain) if isinstance(plain, float) and plain.is_integer() else plain
            self.total.update(json.dumps(same))

    def result(self) -> bytes:
        sketch: bytes = self.total.serialize_compact()
        return sketch


class ExecutorParam(ExecutorSum):
    """What a user's AccumulatorParam makes of the terms."""

    __slots__ = ("_add_in_place",)

    def __init__(self, name: str, where: tuple[str, str, int], pickled: bytes) -> None:
        from pyspark.cloudpickle import loads

        param, zero = loads(pickled)
        ExecutorSum.__init__(self, name, where, zero)
        self._add_in_place = param.addInPlace

    def add(self, term: Any) -> None:
        self.total = self._add_in_place(self.total, term)
        self.adds += 1
        # At the powers of two, which takes little time however long the value becomes.
        if not self.adds & (self.adds - 1):
            self._check_bytes(len(json.dumps(self._plain(self.total))))


def restore(token: str, name: str, tally: Any, *options: Any) -> Any:
    """Make the tally of one pickled use; called when a worker unpickles the UDF, once per task."""
    from pyspark import TaskContext
    from pyspark.accumulators import _accumulatorRegistry

    registry: dict[Any, Any] = _accumulatorRegistry
    if token in registry:
        return registry[token]
    context = TaskContext.get()
    if context is None:
        # Unpickled to plan a query (a UDTF's analyze), not to run it: there is no task to report this.
        return tally(name, ("", "", -1), *options)
    tags = (context.getLocalProperty("spark.job.tags") or "").split(",")
    operation = next((tag.rpartition("_Operation_")[2] for tag in tags if "_Operation_" in tag), "")
    made = tally(name, (operation, _place(context), context.partitionId()), *options)
    registry[token] = made
    return made


def _place(context: Any) -> str:
    """Say where in a query this is, for functions that were pickled once for all queries.

    That is the stage, or the exchange that a stage was run for with adaptive execution. Before it sorts, an exchange
    samples its rows in a stage of their own, whose scope is the plan's.
    """
    scope: str = context.getLocalProperty("spark.rdd.scope") or ""
    if '"name":"Exchange"' not in scope:
        return str(context.stageId())
    return f"sample {context.stageId()}" if '"id":"spark_plan' in scope else f"exchange {scope}"
