"""The kinds of accumulators, as values: what they start from, how terms are put together, how XCom keeps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Self

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.executor import encode

NUMBERS = (int, float, complex, Decimal)


class Kind:
    """What terms of an accumulator are made into; a frozen value, whose `initial` is what it starts from."""

    initial: Any

    @property
    def value(self) -> Any:
        """What it starts from, as a value of the callable's own."""
        return self.initial

    def tally(self) -> tuple[Any, ...]:
        """Return what executors count with: a class of `executor_side`, and what it is made with."""
        raise NotImplementedError

    def check(self, update: Any) -> None:
        """Check what an executor says that a task's terms make.

        :raises ValueError: it can't be that.
        """

    def merge(self, value: Any, update: Any) -> Any:
        """Return two values put together; the first may be changed."""
        raise NotImplementedError

    def add(self, value: Any, term: Any, *, name: str) -> Any:
        """Return a value with one term added in the callable; the value may be changed."""
        make, *options = self.tally()
        tally = make(name, ("", "", 0), *options)
        tally.add(term)
        return self.merge(value, tally.result())

    def to_xcom(self, value: Any) -> Any:
        """Return a value as plain data that `to_kind` makes this kind of, which starts from it."""
        raise NotImplementedError

    def starting(self, value: Any) -> Self:
        """Return this kind with another value to start from."""
        return replace(self, initial=value)  # type: ignore[type-var]


@dataclass(frozen=True)
class Sum(Kind):
    """A sum; a plain number means this.

    :param initial: what it starts from: an int, float, complex or Decimal.
    """

    initial: Any = 0

    def __post_init__(self) -> None:
        if isinstance(self.initial, bool) or not isinstance(self.initial, NUMBERS):
            raise InvalidArgumentError(
                f"a sum starts from {self.initial!r} ({type(self.initial).__name__}): write a number"
            )

    def tally(self) -> tuple[Any, ...]:
        return executor.ExecutorSum, type(self.initial)(0)

    def check(self, update: Any) -> None:
        if isinstance(update, bool) or not isinstance(update, NUMBERS):
            raise ValueError(f"a sum can't be {update!r}: add numbers only")  # noqa: TRY004 (of a cluster)

    def merge(self, value: Any, update: Any) -> Any:
        return value + update

    def to_xcom(self, value: Any) -> Any:
        return encode(value)


class _Extreme(Kind):
    _tally: type[executor.ExecutorSum]
    _name: str

    def tally(self) -> tuple[Any, ...]:
        return self._tally, None

    def merge(self, value: Any, update: Any) -> Any:
        tally = self._tally(self._name, ("", "", 0), value)
        tally.add(update)
        return tally.total

    def to_xcom(self, value: Any) -> Any:
        return {"kind": self._name, "value": encode(value)}


@dataclass(frozen=True)
class Min(_Extreme):
    """The least of what was added; None and NaN don't count.

    :param initial: what it starts from; None is nothing yet.
    """

    initial: Any = None
    _tally = executor.ExecutorMin
    _name = "min"


@dataclass(frozen=True)
class Max(_Extreme):
    """The greatest of what was added; None and NaN don't count.

    :param initial: what it starts from; None is nothing yet.
    """

    initial: Any = None
    _tally = executor.ExecutorMax
    _name = "max"


@dataclass(frozen=True)
class SetOf(Kind):
    """The different values that were added: a set given to `add` is united, anything else is an element.

    :param initial: what it starts from.
    :param limit: how many there may be; the query fails that adds more.
    """

    initial: Collection[Any] = ()
    limit: int = field(default=10_000, kw_only=True)

    def __post_init__(self) -> None:
        # In an order that is the same each time a DAG is parsed.
        object.__setattr__(
            self, "initial", tuple(sorted(set(_collected(self)), key=lambda each: (str(each), repr(each))))
        )

    @property
    def value(self) -> set[Any]:
        return set(self.initial)

    def tally(self) -> tuple[Any, ...]:
        return executor.ExecutorSet, set(), self.limit

    def check(self, update: Any) -> None:
        _check_type(update, set)

    def merge(self, value: Any, update: Any) -> Any:
        value |= update
        return _within(self.limit, value)

    def to_xcom(self, value: Any) -> Any:
        return {**encode(set(value)), "limit": self.limit}


@dataclass(frozen=True)
class ListOf(Kind):
    """The first values that were added, in no particular order: examples.

    :param initial: what it starts from.
    :param limit: how many are kept; those that come later are dropped.
    """

    initial: Collection[Any] = ()
    limit: int = field(default=100, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", tuple(_collected(self)))

    @property
    def value(self) -> list[Any]:
        return list(self.initial)

    def tally(self) -> tuple[Any, ...]:
        return executor.ExecutorList, [], self.limit

    def check(self, update: Any) -> None:
        _check_type(update, list)

    def merge(self, value: Any, update: Any) -> Any:
        return [*value, *update][: self.limit]

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "list", "value": encode(list(value)), "limit": self.limit}


@dataclass(frozen=True)
class CounterOf(Kind):
    """A sum for each key, as a `collections.Counter`: `add(key)` adds 1, `add({key: amount, ...})` adds amounts.

    :param initial: what it starts from, by key.
    :param limit: how many keys there may be; the query fails that adds more.
    """

    initial: Mapping[Any, Any] = field(default_factory=dict)
    limit: int = field(default=10_000, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.initial, Mapping):
            raise InvalidArgumentError(
                f"CounterOf starts from {self.initial!r}: write a dict of numbers, such as {{'E42': 0}}"
            )
        for amount in self.initial.values():
            Sum(amount)
        _check_limit(self)
        object.__setattr__(self, "initial", dict(self.initial))

    @property
    def value(self) -> Counter[Any]:
        return Counter(self.initial)

    def tally(self) -> tuple[Any, ...]:
        return executor.ExecutorCounter, {}, self.limit

    def check(self, update: Any) -> None:
        _check_type(update, dict)
        for amount in update.values():
            Sum().check(amount)

    def merge(self, value: Any, update: Any) -> Any:
        for key, amount in update.items():
            value[key] = value.get(key, 0) + amount
        return _within(self.limit, value)

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "counter", "value": encode(dict(value)), "limit": self.limit}


class DistinctCount(int):
    """About how many different values were added: an int, with the sketch that it was read from.

    :param count: the estimate.
    :param sketch: an HLL sketch of Apache DataSketches, as bytes; empty if there is nothing in it.
    """

    sketch: bytes

    def __new__(cls, count: int = 0, sketch: bytes = b"") -> Self:
        made = super().__new__(cls, count)
        made.sketch = sketch
        return made


@dataclass(frozen=True)
class ApproxCountDistinct(Kind):
    """About how many different values were added, of any number of them; None doesn't count.

    It is an HLL sketch of 2**lg_k bytes, whose estimate is within 1.04 / sqrt(2**lg_k) of the truth in two cases of
    three: 1.6 % by default. Needs the package `datasketches`, here and in the environment.

    :param initial: the estimate that it goes on from.
    :param lg_k: from 4 to 18.
    """

    initial: DistinctCount = field(default_factory=DistinctCount)
    lg_k: int = field(default=12, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.initial, DistinctCount):
            raise InvalidArgumentError(
                f"ApproxCountDistinct starts from {self.initial!r}: which values that counts can't be known. Leave "
                "it out, "
                "or give it what an upstream task's ApproxCountDistinct left in XCom"
            )
        if isinstance(self.lg_k, bool) or self.lg_k not in range(4, 19):
            raise InvalidArgumentError(f"ApproxCountDistinct has lg_k={self.lg_k!r}: write a whole number from 4 to 18")

    def tally(self) -> tuple[Any, ...]:
        _datasketches()
        return executor.ExecutorSketch, self.lg_k

    def check(self, update: Any) -> None:
        _check_type(update, bytes)
        _read(update)

    def merge(self, value: Any, update: Any) -> Any:
        library = _datasketches()
        sketches = [_read(sketch) for sketch in (value.sketch, update) if sketch]
        # A union that is coarser than what it is given forgets what it has.
        union = library.hll_union(max(sketch.lg_config_k for sketch in sketches))
        for sketch in sketches:
            union.update(sketch)
        united = union.get_result(library.tgt_hll_type.HLL_8)
        return DistinctCount(round(united.get_estimate()), united.serialize_compact())

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "approx_distinct", "value": int(value), "sketch": value.sketch.hex(), "lg_k": self.lg_k}


def _datasketches() -> Any:
    try:
        import datasketches
    except ImportError:
        raise InvalidArgumentError(
            "ApproxCountDistinct needs the package datasketches, which this worker's Python doesn't have."
            " Install it: pip install 'airflow-provider-sparkdeps[sketches]'"
        ) from None
    return datasketches


def _read(sketch: bytes) -> Any:
    try:
        return _datasketches().hll_sketch.deserialize(sketch)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"it is no sketch: {error}") from None


def _collected(kind: SetOf | ListOf) -> Collection[Any]:
    _check_limit(kind)
    if isinstance(kind.initial, (str, bytes, Mapping)) or not isinstance(kind.initial, Iterable):
        raise InvalidArgumentError(f"{type(kind).__name__} starts from {kind.initial!r}: write a list of values")
    return kind.initial


def _check_limit(kind: SetOf | ListOf | CounterOf) -> None:
    if isinstance(kind.limit, bool) or not isinstance(kind.limit, int) or kind.limit < 1:
        raise InvalidArgumentError(
            f"{type(kind).__name__} has the limit {kind.limit!r}: write a whole number, 1 or more"
        )


def _check_type(update: Any, wanted: type) -> None:
    if not isinstance(update, wanted):
        raise ValueError(f"it can't be {update!r:.60}: a {wanted.__name__} is due")  # noqa: TRY004 (of a cluster)


def _within(limit: int, value: Any) -> Any:
    if len(value) > limit:
        raise ValueError(
            f"it grew past its limit of {limit:,} different values: raise `limit`, or add something coarser"
        )
    return value
