"""Runs on executors: what accumulators are there. It is pickled by value, so executors need only PySpark."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from airflow_provider_sparkdeps.spark.accumulators.codec import NUMBERS, canonical, decode, encode, is_null, plain

MAX_UPDATE_BYTES = 1_000_000
"""Size limit of one task's update of one accumulator: all updates of a query are in one response of at most 2 GB."""


class ExecutorSum:
    """An accumulator on an executor, here a sum: UDFs add to it, and Spark sends its update when the task ends."""

    __slots__ = ("_name", "_origin", "adds", "place", "start", "total")

    def __init__(self, name: str, total: Any) -> None:
        self._name = name
        self._origin: tuple[Any, ...] = ()
        self.place: list[Any] = []
        self.start = time.monotonic_ns()
        self.adds = 0
        self.total = total

    def add(self, term: Any) -> None:
        if type(term) is not int and type(term) is not float:
            term = self._number(term)
        self.total += term
        self.adds += 1

    def __iadd__(self, term: Any) -> ExecutorSum:
        self.add(term)
        return self

    @property
    def value(self) -> Any:
        raise RuntimeError(
            f"Accumulator {self._name!r} can only be added to on executors. Read its value in the task's callable, "
            "after the action."
        )

    @value.setter
    def value(self, value: Any) -> None:
        raise RuntimeError(
            f"Accumulator {self._name!r} can only be added to on executors. Set its value in the task's callable."
        )

    def result(self) -> Any:
        """Return the update that the terms make, as a supported value."""
        return self.total

    def __reduce__(self) -> tuple[Any, ...]:
        # Spark pickles Python data sources again after they have planned a query.
        return restore, self._origin

    @property
    def _value(self) -> str:
        """Spark's worker reads this when the task ends. It is a string, so that the driver unpickles nothing else."""
        place = [*self.place, self.start, time.monotonic_ns(), os.getpid(), self.adds]
        try:
            update = json.dumps([*place, self._encode(self.result())])
            self._check_size(len(update))
        except Exception as error:  # noqa: BLE001 (users' objects raise anything)
            # An exception here would kill Spark's Python worker without a message.
            update = json.dumps([*place, {"kind": "error", "value": str(error)}])
        return update

    def _encode(self, value: Any) -> Any:
        try:
            return encode(value)
        except TypeError as error:
            raise TypeError(f"Accumulator {self._name!r} could not be sent: {error}") from None

    def _number(self, term: Any) -> Any:
        """Return a number as Python's own, since numpy's overflow and lose precision."""
        number = plain(term)
        if not isinstance(number, NUMBERS):
            raise TypeError(f"Accumulator {self._name!r} adds numbers, and {term!r:.60} is not one.")
        return number

    def _replace(self, term: Any) -> None:
        self._check_size(len(json.dumps(self._encode(term))))
        self.total = term

    def _check_size(self, size: int) -> None:
        if size > MAX_UPDATE_BYTES:
            raise RuntimeError(
                f"Accumulator {self._name!r} has more than {MAX_UPDATE_BYTES:,} bytes in one task, which is the limit. "
                "Add fewer or coarser values, or write them to a column instead."
            )


class OutsideOfTasks:
    """Takes the place of an accumulator where Spark runs Python beside the driver, which sends no updates.

    Python data sources are pickled again for executors, where they can add.
    """

    __slots__ = ("_name", "_origin")

    def __init__(self, name: str, origin: tuple[Any, ...]) -> None:
        self._name = name
        self._origin = origin

    def add(self, term: Any) -> None:
        raise RuntimeError(
            f"Accumulator {self._name!r} can't be added to here: foreachBatch, analyze of a UDTF, and the planning of "
            "a data source run beside the driver, which sends no updates. Add to it in functions that run on rows."
        )

    def __iadd__(self, term: Any) -> OutsideOfTasks:
        self.add(term)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        program = getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", "")
        if "foreach_batch" in program or "listener" in program:
            # Updates of queries that run there do not reach the task.
            self.add(None)
        return restore, self._origin


class ExecutorMax(ExecutorSum):
    """The largest term. As in SQL, nulls and NaN are ignored."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if not is_null(term):
            term = plain(term)
            if self.total is None or term > self.total:
                self._replace(term)


class ExecutorMin(ExecutorSum):
    """The smallest term. As in SQL, nulls and NaN are ignored."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if not is_null(term):
            term = plain(term)
            if self.total is None or term < self.total:
                self._replace(term)


class _Bounded(ExecutorSum):
    """A collection with a maximum number of elements and of bytes."""

    __slots__ = ("_bytes", "_limit")

    def __init__(self, name: str, total: Any, limit: int) -> None:
        ExecutorSum.__init__(self, name, total)
        self._limit = limit
        self._bytes = 0

    def _grow(self, term: Any) -> None:
        self._bytes += len(json.dumps(self._encode(term))) + 2
        self._check_size(self._bytes)

    def _check_limit(self) -> None:
        if len(self.total) >= self._limit:
            raise RuntimeError(
                f"Accumulator {self._name!r} has more than {self._limit:,} different values, which is its limit. Raise "
                "`limit`, or add coarser values."
            )


class ExecutorSet(_Bounded):
    """A set. A set that is added is united with it, and any other term is an element."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        for element in map(canonical, term if isinstance(term, (set, frozenset)) else (term,)):
            if element not in self.total:
                self._check_limit()
                self._grow(element)
                self.total.add(element)


class ExecutorList(_Bounded):
    """A list of the first terms."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        if len(self.total) < self._limit:
            self._grow(term)
            # A copy, since the caller may change the term.
            self.total.append(decode(encode(term)))


class ExecutorCounter(_Bounded):
    """A sum for each key. A dict that is added contains amounts by key, and any other term is a key that counts 1."""

    __slots__ = ()

    def add(self, term: Any) -> None:
        self.adds += 1
        for key, amount in term.items() if isinstance(term, dict) else ((term, 1),):
            key, amount = canonical(key), self._number(amount)
            if key in self.total:
                self.total[key] += amount
            else:
                self._check_limit()
                self._grow((key, amount))
                self.total[key] = amount


class ExecutorSketch(ExecutorSum):
    """A sketch that estimates the number of different terms. As in SQL, nulls are ignored."""

    __slots__ = ()

    def __init__(self, name: str, lg_k: int) -> None:
        try:
            from datasketches import hll_sketch, tgt_hll_type
        except ImportError:
            raise RuntimeError(
                f"Accumulator {name!r} is an ApproxCountDistinct, and executors don't have the package datasketches. "
                "Add it to the environment's requirements."
            ) from None
        ExecutorSum.__init__(self, name, hll_sketch(lg_k, tgt_hll_type.HLL_8))

    def add(self, term: Any) -> None:
        self.adds += 1
        term = canonical(term)
        if term is not None:
            encoded = self._encode(term)
            # 1 and 1.0 are the same value.
            same = int(encoded) if isinstance(encoded, float) and encoded.is_integer() else encoded
            self.total.update(json.dumps(same))

    def result(self) -> bytes:
        sketch: bytes = self.total.serialize_compact()
        return sketch


class ExecutorParam(ExecutorSum):
    """A value to which a user's AccumulatorParam adds the terms."""

    __slots__ = ("_add_in_place",)

    def __init__(self, name: str, pickled: bytes) -> None:
        from pyspark.cloudpickle import loads

        param, zero = loads(pickled)
        ExecutorSum.__init__(self, name, zero)
        self._add_in_place = param.addInPlace

    def add(self, term: Any) -> None:
        self.total = self._add_in_place(self.total, term)
        self.adds += 1
        # Checked at powers of two, so that it takes little time however large the value becomes.
        if not self.adds & (self.adds - 1):
            self._check_size(len(json.dumps(self._encode(self.total))))


def restore(token: str, name: str, kind: Any, *options: Any) -> Any:
    """Return the executor's accumulator for one pickled use. A worker unpickles each UDF once per evaluation.

    :param kind: one of the classes above.
    :param options: its further arguments.
    """
    from pyspark import TaskContext
    from pyspark.accumulators import _accumulatorRegistry

    registry: dict[Any, Any] = _accumulatorRegistry
    if token in registry:
        return registry[token]
    context = TaskContext.get()
    if context is None:
        return OutsideOfTasks(name, (token, name, kind, *options))
    made = kind(name, *options)
    made._origin = (token, name, kind, *options)
    made.place = _place(context)
    registry[token] = made
    return made


def _place(context: Any) -> list[Any]:
    """Return where in Spark's execution a task is: operation, batch of a stream, stage, partition, attempt, sample."""
    tags = (context.getLocalProperty("spark.job.tags") or "").split(",")
    # Users' own tags have another prefix.
    own = [tag for tag in tags if tag.startswith("SparkConnect_OperationTag_")]
    operation = own[0].rpartition("_Operation_")[2] if own else ""
    batch = context.getLocalProperty("streaming.sql.batchId") or ""
    scope = context.getLocalProperty("spark.rdd.scope") or ""
    # An exchange that sorts samples its rows in jobs of its own.
    sampled_for = scope if '"id":"spark_plan' in scope and '"name":"Exchange"' in scope else ""
    return [operation, batch, context.stageId(), context.partitionId(), context.taskAttemptId(), sampled_for]
