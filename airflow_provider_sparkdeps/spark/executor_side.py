"""The only code that travels to executors: pickled by value, it needs only PySpark and the standard library there."""

from __future__ import annotations

import json
from typing import Any


class Tally:
    """What an accumulator is on an executor: it can be added to, and tells its sum when the task ends."""

    __slots__ = ("_name", "_where", "adds", "total")

    def __init__(self, name: str, zero: Any, where: tuple[str, int, int]) -> None:
        self._name = name
        self._where = where
        self.adds = 0
        self.total = zero

    def add(self, term: Any) -> None:
        self.total += term
        self.adds += 1

    def __iadd__(self, term: Any) -> Tally:
        self.add(term)
        return self

    @property
    def value(self) -> Any:
        raise RuntimeError(
            f"accumulator {self._name!r} can only be added to on executors: read its value in the task's callable, "
            "after the action"
        )

    @property
    def _value(self) -> str:
        """Spark's worker reads this when the task ends; text, so that nothing is unpickled on the other side."""
        total = self.total.item() if hasattr(self.total, "item") else self.total
        if not isinstance(total, (int, float)):
            raise TypeError(f"accumulator {self._name!r} became a {type(total).__name__}: add int or float terms only")
        return json.dumps([*self._where, self.adds, total])


def restore(token: str, name: str, zero: Any) -> Tally:
    """Make the tally of one pickled use; called when a worker unpickles the UDF, once per task."""
    from pyspark import TaskContext
    from pyspark.accumulators import _accumulatorRegistry

    registry: dict[Any, Any] = _accumulatorRegistry
    if token in registry:
        found: Tally = registry[token]
        return found
    context = TaskContext.get()
    if context is None:
        # Unpickled to plan a query (a UDTF's analyze), not to run it: there is no task to report this.
        return Tally(name, zero, ("", -1, -1))
    tags = (context.getLocalProperty("spark.job.tags") or "").split(",")
    operation = next((tag.rpartition("_Operation_")[2] for tag in tags if "_Operation_" in tag), "")
    tally = Tally(name, zero, (operation, context.stageId(), context.partitionId()))
    registry[token] = tally
    return tally
