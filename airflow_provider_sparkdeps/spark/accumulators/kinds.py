"""The kinds of accumulators: what they start from, how terms are combined, and how XCom stores them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.codec import NUMBERS, encode


class AccumulatorKind:
    """How the terms of an accumulator are combined; a frozen value, with the `initial` value to start from."""

    initial: Any
    repetitions_count: ClassVar[bool] = True
    """Whether a term that is added again changes the value."""

    @property
    def value(self) -> Any:
        """The initial value, as a new object that the callable may change."""
        return self.initial

    def executor_args(self) -> tuple[Any, ...]:
        """Return the class in `executor` that counts on executors, and its further arguments."""
        raise NotImplementedError

    def check(self, update: Any) -> None:
        """Check the update of a task.

        :raises ValueError: if it can't be an update of this kind.
        """

    def merge(self, value: Any, update: Any) -> Any:
        """Return a value with an update added. The value may be changed."""
        raise NotImplementedError

    def add(self, value: Any, term: Any, *, name: str) -> Any:
        """Return a value with a term added in the callable. The value may be changed.

        :raises ValueError: if it would have more different values than its limit.
        """
        make, *options = self.executor_args()
        counter = make(name, *options)
        counter.add(term)
        value = self.merge(value, counter.result())
        if self.cut(value)[1]:
            raise ValueError("it would have more different values than its limit. Raise `limit`, or add coarser values")
        return value

    def cut(self, value: Any) -> tuple[Any, int]:
        """Return what a limit leaves of a merged value, and the number of values that it drops."""
        return value, 0

    def to_xcom(self, value: Any) -> Any:
        """Return a value as JSON-compatible values from which `to_kind` creates this kind with this initial value."""
        raise NotImplementedError

    def with_initial(self, value: Any) -> Self:
        """Return this kind with another initial value."""
        return replace(self, initial=value)  # type: ignore[type-var]


@dataclass(frozen=True)
class Sum(AccumulatorKind):
    """A sum. A number means this kind.

    :param initial: the number to start from: int, float, complex or Decimal.
    """

    initial: Any = 0

    def __post_init__(self) -> None:
        if isinstance(self.initial, bool) or not isinstance(self.initial, NUMBERS):
            raise InvalidArgumentError(
                f"A sum can't start from {self.initial!r} ({type(self.initial).__name__}). Use a number."
            )

    def executor_args(self) -> tuple[Any, ...]:
        return executor.ExecutorSum, type(self.initial)(0)

    def check(self, update: Any) -> None:
        if isinstance(update, bool) or not isinstance(update, NUMBERS):
            raise ValueError(f"{update!r:.60} is not a number")  # noqa: TRY004 (the value comes from the cluster)

    def merge(self, value: Any, update: Any) -> Any:
        return value + update

    def to_xcom(self, value: Any) -> Any:
        return encode(value)


class _Extreme(AccumulatorKind):
    repetitions_count = False
    _executor_class: type[executor.ExecutorSum]
    _name: str

    def executor_args(self) -> tuple[Any, ...]:
        return self._executor_class, None

    def merge(self, value: Any, update: Any) -> Any:
        counter = self._executor_class(self._name, value)
        counter.add(update)
        return counter.total

    def to_xcom(self, value: Any) -> Any:
        return {"kind": self._name, "value": encode(value)}


@dataclass(frozen=True)
class Min(_Extreme):
    """The smallest value that was added. None and NaN are ignored.

    :param initial: the value to start from; None means nothing was added.
    """

    initial: Any = None
    _executor_class = executor.ExecutorMin
    _name = "min"


@dataclass(frozen=True)
class Max(_Extreme):
    """The largest value that was added. None and NaN are ignored.

    :param initial: the value to start from; None means nothing was added.
    """

    initial: Any = None
    _executor_class = executor.ExecutorMax
    _name = "max"


@dataclass(frozen=True)
class SetOf(AccumulatorKind):
    """The different values that were added. `add` takes an element, or a set of elements.

    :param initial: the elements to start from.
    :param limit: maximum number of elements. A task that adds more fails; what several tasks add beyond it is dropped.
    """

    initial: Collection[Any] = ()
    limit: int = field(default=10_000, kw_only=True)
    repetitions_count = False

    def __post_init__(self) -> None:
        # Sorted, so that the DAG is the same each time it is parsed.
        object.__setattr__(self, "initial", tuple(sorted(set(_initial_values(self)), key=_order)))

    @property
    def value(self) -> set[Any]:
        return set(self.initial)

    def executor_args(self) -> tuple[Any, ...]:
        return executor.ExecutorSet, set(), self.limit

    def check(self, update: Any) -> None:
        check_type(update, set)

    def merge(self, value: Any, update: Any) -> Any:
        value |= update
        return value

    def cut(self, value: Any) -> tuple[Any, int]:
        if len(value) <= self.limit:
            return value, 0
        return set(sorted(value, key=_order)[: self.limit]), len(value) - self.limit

    def to_xcom(self, value: Any) -> Any:
        return {**encode(set(value)), "limit": self.limit}


@dataclass(frozen=True)
class ListOf(AccumulatorKind):
    """The first values that were added, in no particular order: examples.

    :param initial: the values to start from.
    :param limit: maximum number of values; later ones are dropped.
    """

    initial: Collection[Any] = ()
    limit: int = field(default=100, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", tuple(_initial_values(self)))

    @property
    def value(self) -> list[Any]:
        return list(self.initial)

    def executor_args(self) -> tuple[Any, ...]:
        return executor.ExecutorList, [], self.limit

    def check(self, update: Any) -> None:
        check_type(update, list)

    def merge(self, value: Any, update: Any) -> Any:
        return [*value, *update][: self.limit]

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "list", "value": encode(list(value)), "limit": self.limit}


@dataclass(frozen=True)
class CounterOf(AccumulatorKind):
    """A sum for each key, as a `collections.Counter`: `add(key)` adds 1, `add({key: amount, ...})` adds amounts.

    :param initial: the amounts to start from, by key.
    :param limit: maximum number of keys. A task that adds more fails; what several tasks add beyond it is dropped.
    """

    initial: Mapping[Any, Any] = field(default_factory=dict)
    limit: int = field(default=10_000, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.initial, Mapping):
            raise InvalidArgumentError(
                f"CounterOf can't start from {self.initial!r}. Use a dict of numbers, for example {{'E42': 0}}."
            )
        for amount in self.initial.values():
            Sum(amount)
        _check_limit(self)
        object.__setattr__(self, "initial", dict(self.initial))

    @property
    def value(self) -> Counter[Any]:
        return Counter(self.initial)

    def executor_args(self) -> tuple[Any, ...]:
        return executor.ExecutorCounter, {}, self.limit

    def check(self, update: Any) -> None:
        check_type(update, dict)
        for amount in update.values():
            Sum().check(amount)

    def merge(self, value: Any, update: Any) -> Any:
        for key, amount in update.items():
            value[key] = value.get(key, 0) + amount
        return value

    def cut(self, value: Any) -> tuple[Any, int]:
        if len(value) <= self.limit:
            return value, 0
        kept = sorted(value, key=_order)[: self.limit]
        return Counter({key: value[key] for key in kept}), len(value) - self.limit

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "counter", "value": encode(dict(value)), "limit": self.limit}


def check_type(update: Any, kind: type) -> None:
    """Check the type of an update.

    :raises ValueError: if it is another one.
    """
    if not isinstance(update, kind):
        raise ValueError(f"{update!r:.60} is not a {kind.__name__}")  # noqa: TRY004 (the value comes from the cluster)


def _initial_values(kind: SetOf | ListOf) -> Collection[Any]:
    _check_limit(kind)
    if isinstance(kind.initial, (str, bytes, Mapping)) or not isinstance(kind.initial, Iterable):
        raise InvalidArgumentError(f"{type(kind).__name__} can't start from {kind.initial!r}. Use a list of values.")
    return kind.initial


def _check_limit(kind: SetOf | ListOf | CounterOf) -> None:
    if isinstance(kind.limit, bool) or not isinstance(kind.limit, int) or kind.limit < 1:
        raise InvalidArgumentError(f"limit={kind.limit!r} of {type(kind).__name__} is not a whole number above 0.")


def _order(value: Any) -> tuple[str, str]:
    return str(value), repr(value)
