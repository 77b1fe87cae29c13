"""Accumulators on Spark Connect: added to on executors, read in the task, each use counted once per partition."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.initial_values import decode_accumulators, to_kind
from airflow_provider_sparkdeps.spark.accumulators.kinds import (
    ApproxCountDistinct,
    CounterOf,
    Kind,
    ListOf,
    Max,
    Min,
    SetOf,
    Sum,
)
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam
from airflow_provider_sparkdeps.spark.accumulators.updates import make_token

if TYPE_CHECKING:
    from pyspark.sql.connect.observation import Observation

    from airflow_provider_sparkdeps.spark.accumulators.collector import UpdateCollector

__all__ = [
    "Accumulator",
    "Accumulators",
    "ApproxCountDistinct",
    "CounterOf",
    "ListOf",
    "Max",
    "Min",
    "SetOf",
    "Sum",
    "WithParam",
    "decode_accumulators",
]


class Accumulator:
    """What UDFs add to on executors and the task's callable reads: a sum, or another kind.

    Made by `Session.accumulator`. An operation counts only once it has succeeded, and each place where a UDF stands
    in its query counts once per partition, whatever Spark repeats.
    """

    def __init__(self, name: str, kind: Kind, collector: UpdateCollector) -> None:
        from pyspark.cloudpickle import register_pickle_by_value

        self.name = name
        self.kind = kind
        self._here = kind.value
        self._collector = collector
        self._id = uuid.uuid4().hex
        collector.enter(self._id, name, kind)
        register_pickle_by_value(executor)

    @property
    def value(self) -> Any:
        """The initial value, and what was added since by succeeded operations and by `add` here.

        :raises SessionError: it can't be known, or is more than the kind's limit.
        """
        value = self.kind.starting(self._here).value
        try:
            for update in self._collector.added(self._id):
                value = self.kind.merge(value, update)
        except (TypeError, ValueError) as error:
            raise SessionError(f"accumulator {self.name!r} can't be put together: {error}") from error
        return value

    @value.setter
    def value(self, value: Any) -> None:
        kind = to_kind(self.name, value) if isinstance(self.kind, Sum) else self.kind.starting(value)
        self._collector.forget(self._id)
        self._collector.enter(self._id, self.name, kind)
        self.kind, self._here = kind, kind.value

    @property
    def add(self) -> Callable[[Any], None]:
        """Add a term: `add(term)` here in the callable at once, in a UDF when its operation has succeeded.

        :raises SessionError: it makes more than the kind's limit, or is no plain data.
        """
        return _Adding(self)

    def __iadd__(self, term: Any) -> Accumulator:
        self.add(term)
        return self

    def _add(self, term: Any) -> None:
        try:
            self._here = self.kind.add(self._here, term, name=self.name)
        except (RuntimeError, ValueError) as error:
            raise SessionError(f"accumulator {self.name!r} can't take {term!r:.60}: {error}") from error

    def to_xcom(self) -> Any:
        """Return the value as plain data, which a downstream task may start from.

        :raises SessionError: it is no plain data.
        """
        try:
            return self.kind.to_xcom(self.value)
        except TypeError as error:
            raise SessionError(f"accumulator {self.name!r} can't go to XCom: {error}") from None

    def give_param(self, param: Any) -> None:
        """Say how terms are added to a value that XCom brought without its `AccumulatorParam`."""
        self.kind = WithParam(param, self._here)
        self._collector.enter(self._id, self.name, self.kind)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # PySpark pickles each use of a UDF in a plan by itself, so that a new name here tells uses apart.
        return executor.restore, (make_token(self._id, uuid.uuid4().hex), self.name, *self.kind.tally())

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"Accumulator({self.name}={self.value})"


class _Adding:
    """The method `add`, which is that of the executor's side wherever it is pickled, as in `foreach(bad_rows.add)`."""

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator

    def __call__(self, term: Any) -> None:
        self._accumulator._add(term)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return getattr, (self._accumulator, "add")


class Accumulators(dict[str, Accumulator]):
    """A task's accumulators by name.

    :param found: those that there are.
    :param make: makes another one: `Session.accumulator`.
    """

    def __init__(self, found: dict[str, Accumulator], make: Callable[[str, Any, Any], Accumulator]) -> None:
        super().__init__(found)
        self._make = make
        self._taken: list[Any] = []

    def __missing__(self, name: str) -> Accumulator:
        raise SessionError(
            f"this task has no accumulator {name!r} (it has: {', '.join(sorted(self)) or 'none'}): name it in the "
            f'operator\'s `accumulators={{"{name}": 0}}`'
        )

    def create(self, name: str, initial: Any = 0, param: Any = None) -> Accumulator:
        """Return a new accumulator, which goes to XCom with the others.

        :param name: an identifier.
        :param initial: what it starts from: a number, a kind such as `Max()`, or, with `param`, plain data.
        :param param: PySpark's `AccumulatorParam`, or the like: how terms are added. An accumulator that XCom brought
            without one gets it, and goes on from its value.
        :raises InvalidArgumentError: the name is no identifier or is taken, or the value can't be meant.
        """
        found = self.get(name)
        if param is not None and found is not None and isinstance(found.kind, WithParam) and found.kind.param is None:
            found.give_param(param)
            return found
        self[name] = made = self._make(name, initial, param)
        return made

    def add_observation(self, observation: Observation) -> None:
        """Add what `DataFrame.observe` found to the accumulators of the same names, which are made where missing.

        Call it after the action. Numbers make sums; for others name a kind first, such as `{"largest": Max()}` for
        `max(...).alias("largest")`. Nulls add nothing.

        :param observation: its metrics have names, by `alias`, that are identifiers.
        :raises SessionError: no action has computed it, or it was added already.
        :raises InvalidArgumentError: a name is no identifier, or a metric is no number and has no accumulator.
        """
        if any(observation is taken for taken in self._taken):
            raise SessionError("this observation was added to the accumulators already: take out the second call")
        if not (found := _metrics(observation)):
            raise SessionError(
                "the observation has found nothing: call `add_observation` after an action (collect, write) on the "
                "DataFrame that `observe` returned"
            )
        for name, value in found.items():
            if name not in self and value is not None:
                try:
                    kind = to_kind(name, value)
                except InvalidArgumentError as error:
                    raise InvalidArgumentError(f"what was observed as {name!r} makes no sum: {error}") from None
                self.create(name, kind.starting(type(value)(0)))
        self._taken.append(observation)
        for name, value in found.items():
            if value is not None:
                self[name].add(value)


def _metrics(observation: Observation) -> dict[str, Any]:
    from pyspark.errors import PySparkAssertionError

    try:
        return dict(observation.get)
    except PySparkAssertionError:
        return {}
