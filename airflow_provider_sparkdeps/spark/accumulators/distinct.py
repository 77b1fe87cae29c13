"""The kind of accumulator that estimates how many different values were added."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.kinds import AccumulatorKind, check_type


class DistinctCount(int):
    """An estimated number of different values: an int, with the sketch that it comes from.

    :param count: the estimate.
    :param sketch: an HLL sketch of Apache DataSketches; empty if nothing was added.
    """

    sketch: bytes

    def __new__(cls, count: int = 0, sketch: bytes = b"") -> Self:
        made = super().__new__(cls, count)
        made.sketch = sketch
        return made


@dataclass(frozen=True)
class ApproxCountDistinct(AccumulatorKind):
    """An estimate of how many different values were added, for any number of values. None is ignored.

    It is an HLL sketch of 2**lg_k bytes. Two of three estimates differ from the true number by at most
    1.04 / sqrt(2**lg_k), which is 1.6 % by default. Needs the package `datasketches` on the worker and in the
    environment.

    :param initial: the estimate to continue from.
    :param lg_k: from 4 to 18.
    """

    initial: DistinctCount = field(default_factory=DistinctCount)
    lg_k: int = field(default=12, kw_only=True)
    repetitions_count = False

    def __post_init__(self) -> None:
        if not isinstance(self.initial, DistinctCount):
            raise InvalidArgumentError(
                f"ApproxCountDistinct can't start from {self.initial!r}: a number does not say which values it counts. "
                "Leave it out, or pass the value of an upstream task's ApproxCountDistinct."
            )
        if isinstance(self.lg_k, bool) or self.lg_k not in range(4, 19):
            raise InvalidArgumentError(f"lg_k={self.lg_k!r} is not a whole number from 4 to 18.")

    def executor_args(self) -> tuple[Any, ...]:
        _import_datasketches()
        return executor.ExecutorSketch, self.lg_k

    def check(self, update: Any) -> None:
        check_type(update, bytes)
        _read(update)

    def merge(self, value: Any, update: Any) -> Any:
        library = _import_datasketches()
        sketches = [_read(sketch) for sketch in (value.sketch, update) if sketch]
        # A union that is coarser than a sketch would lose the sketch's precision.
        union = library.hll_union(max(sketch.lg_config_k for sketch in sketches))
        for sketch in sketches:
            union.update(sketch)
        united = union.get_result(library.tgt_hll_type.HLL_8)
        return DistinctCount(round(united.get_estimate()), united.serialize_compact())

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "approx_distinct", "value": int(value), "sketch": value.sketch.hex(), "lg_k": self.lg_k}


def _import_datasketches() -> Any:
    try:
        import datasketches
    except ImportError:
        raise InvalidArgumentError(
            "ApproxCountDistinct needs the package datasketches, which is not installed on this worker. Install it: "
            "pip install 'airflow-provider-sparkdeps[sketches]'."
        ) from None
    return datasketches


def _read(sketch: bytes) -> Any:
    try:
        return _import_datasketches().hll_sketch.deserialize(sketch)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"not a sketch ({error})") from None
