"""Accumulators as the task's callable uses them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import codec, executor
from airflow_provider_sparkdeps.spark.accumulators.collector import UpdateCollector
from airflow_provider_sparkdeps.spark.accumulators.initial_values import to_kind
from airflow_provider_sparkdeps.spark.accumulators.kinds import AccumulatorKind, Sum
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam
from airflow_provider_sparkdeps.spark.accumulators.updates import FailedUpdate, make_token

if TYPE_CHECKING:
    from pyspark.sql import Observation

log = logging.getLogger(__name__)


class Accumulator:
    """A value that UDFs add to on executors and that the task's callable reads: a sum, or another kind.

    Created by `Session.accumulator`. An operation is counted only after it has succeeded. What Spark evaluates again is
    counted once where that can be known; docs/counting.md has the rule.
    """

    def __init__(self, name: str, kind: AccumulatorKind, collector: UpdateCollector) -> None:
        from pyspark.cloudpickle import register_pickle_by_value

        self.name = name
        self.kind = kind
        # The initial value with the terms that were added in the callable.
        self._local = kind.value
        self._collector = collector
        self._id = uuid.uuid4().hex
        self._is_warned = False
        collector.register(self._id, name, kind)
        for module in (codec, executor):
            register_pickle_by_value(module)

    @property
    def value(self) -> Any:
        """The initial value, with all terms added by succeeded operations and by `add` in the callable.

        :raises SessionError: if it can't be known.
        """
        return self._merge()[0]

    @value.setter
    def value(self, value: Any) -> None:
        kind = to_kind(self.name, value) if isinstance(self.kind, Sum) else self.kind.with_initial(value)
        self._collector.discard(self._id)
        self._collector.register(self._id, self.name, kind)
        self.kind, self._local = kind, kind.value

    @property
    def dropped(self) -> int:
        """How many values are missing in `value`: those beyond the kind's limit, and updates that could not be sent.

        :raises SessionError: if it can't be known.
        """
        return self._merge()[1]

    def _merge(self) -> tuple[Any, int]:
        value, failed = self.kind.with_initial(self._local).value, []
        try:
            for update in self._collector.updates_of(self._id):
                if isinstance(update, FailedUpdate):
                    failed.append(update.message)
                else:
                    value = self.kind.merge(value, update)
            value, dropped = self.kind.cut(value)
        except (TypeError, ValueError) as error:
            raise SessionError(f"Could not compute accumulator {self.name!r}: {error}") from error
        if (dropped or failed) and not self._is_warned:
            self._is_warned = True
            # No error: the query may have written its rows, and a task that is tried again would write them twice.
            reason = failed[0] if failed else f"it has more than {len(value):,} different values, which is its limit"
            log.warning("Accumulator %r is incomplete, %d are missing: %s", self.name, dropped + len(failed), reason)
        return value, dropped + len(failed)

    @property
    def add(self) -> Callable[[Any], None]:
        """Add a term: `add(term)` counts at once in the callable, and in a UDF when its operation has succeeded.

        :raises SessionError: if the value exceeds the kind's limit, or the term is not supported.
        """
        return _AddMethod(self)

    def __iadd__(self, term: Any) -> Accumulator:
        self.add(term)
        return self

    def _add(self, term: Any) -> None:
        try:
            self._local = self.kind.add(self._local, term, name=self.name)
        except RuntimeError as error:
            raise SessionError(str(error)) from error
        except ValueError as error:
            raise SessionError(f"Could not add {term!r:.60} to accumulator {self.name!r}: {error}") from error

    def to_xcom(self) -> Any:
        """Return the value as JSON-compatible values that a downstream task may start from.

        :raises SessionError: if it is not supported.
        """
        value, dropped = self._merge()
        try:
            found = self.kind.to_xcom(value)
        except TypeError as error:
            raise SessionError(f"Could not push accumulator {self.name!r} to XCom: {error}") from None
        return {**found, "dropped": dropped} if dropped and isinstance(found, dict) else found

    def set_param(self, param: Any) -> None:
        """Set the `AccumulatorParam` of a value from XCom, which does not keep it."""
        self.kind = WithParam(param, self._local)
        self._collector.register(self._id, self.name, self.kind)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return executor.restore, (make_token(self._id), self.name, *self.kind.executor_args())

    def __copy__(self) -> Accumulator:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Accumulator:
        # What holds it may be copied, for example by `dataclasses.asdict`. All copies count.
        return self

    def __str__(self) -> str:
        return str(self.value)

    def __repr__(self) -> str:
        return f"Accumulator({self.name}={self.value})"


class _AddMethod:
    """The method `add`, which is pickled as the method of the executor's accumulator (`foreach(bad_rows.add)`).

    A bound method would be pickled with the function `Accumulator.add`, which executors can't import.
    """

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator

    def __call__(self, term: Any) -> None:
        self._accumulator._add(term)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return getattr, (self._accumulator, "add")


class Accumulators(dict[str, Accumulator]):
    """A task's accumulators by name.

    :param found: the accumulators that exist.
    :param make: creates another one: `Session.accumulator`.
    """

    def __init__(self, found: dict[str, Accumulator], make: Callable[[str, Any, Any], Accumulator]) -> None:
        super().__init__(found)
        self._make = make
        self._observed: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __missing__(self, name: str) -> Accumulator:
        raise SessionError(
            f"This task has no accumulator {name!r}, only: {', '.join(sorted(self)) or 'none'}. Add it to the "
            f'operator\'s arguments: `accumulators={{"{name}": 0}}`.'
        )

    def create(self, name: str, initial: Any = 0, param: Any = None) -> Accumulator:
        """Return a new accumulator, which is pushed to XCom with the others.

        :param name: an identifier.
        :param initial: the value to start from: a number, a kind such as `Max()`, or, with `param`, a value that it
            accepts.
        :param param: PySpark's `AccumulatorParam` or a similar object, which defines how terms are added. If `name`
            is an accumulator from XCom without a param, it gets this one and keeps its value.
        :raises InvalidArgumentError: if the name is not an identifier or exists already, or an argument is invalid.
        """
        found = self.get(name)
        if param is not None and found is not None and isinstance(found.kind, WithParam) and found.kind.param is None:
            found.set_param(param)
            return found
        self[name] = made = self._make(name, initial, param)
        return made

    def add_observation(self, observation: Observation) -> None:
        """Add the metrics of `DataFrame.observe` to the accumulators of the same names; missing ones are created.

        Call it after the action. Numbers create sums. For other metrics create the accumulator first, for example
        `{"largest": Max()}` for `max(...).alias("largest")`. Nulls are ignored.

        :param observation: its metrics have identifiers as names, which `alias` sets.
        :raises SessionError: if no action has computed it, or it was added before.
        :raises InvalidArgumentError: if a name is not an identifier, or a metric that is not a number has no
            accumulator.
        """
        if any(observation is each for each in self._observed):
            raise SessionError("This observation was already added to the accumulators. Remove the second call.")
        if not (found := _metrics(observation)):
            raise SessionError(
                "The observation has no metrics yet. Call `add_observation` after an action (collect, write) on the "
                "DataFrame that `observe` returned."
            )
        for name, value in found.items():
            if name not in self and value is not None:
                try:
                    kind = to_kind(name, value)
                except InvalidArgumentError as error:
                    raise InvalidArgumentError(f"Could not create a sum of the metric {name!r}: {error}") from None
                self.create(name, kind.with_initial(type(value)(0)))
        self._observed.append(observation)
        for name, value in found.items():
            if value is not None:
                self[name].add(value)


def _metrics(observation: Observation) -> dict[str, Any]:
    from pyspark.errors import PySparkAssertionError

    try:
        return dict(observation.get)
    except PySparkAssertionError:
        return {}
