"""The kind of accumulator whose terms are added by an `AccumulatorParam` of the user's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.codec import decode
from airflow_provider_sparkdeps.spark.accumulators.executor import encode
from airflow_provider_sparkdeps.spark.accumulators.kinds import Kind


@dataclass(frozen=True, repr=False)
class WithParam(Kind):
    """What an `AccumulatorParam` makes of the terms, in the callable and on executors.

    :param param: PySpark's `AccumulatorParam`, or anything with its `zero(value)` and `addInPlace(value1, value2)`.
        It goes to executors by value. None: XCom brought only the value; see `Accumulators.create`.
    :param initial: what it starts from: plain data (numbers, texts, bytes, dates; lists, tuples, sets, dicts of them).
    """

    param: Any
    initial: Any = 0

    def __post_init__(self) -> None:
        if isinstance(self.param, type):
            raise InvalidArgumentError(f"{self.param.__name__} is a class: write {self.param.__name__}()")
        lacks = [name for name in ("zero", "addInPlace") if not callable(getattr(self.param, name, None))]
        if self.param is not None and lacks:
            raise InvalidArgumentError(
                f"{type(self.param).__name__} is no AccumulatorParam: it lacks the method {lacks[0]}"
            )
        if isinstance(self.initial, Mapping) and self.initial.get("kind") == "param":
            object.__setattr__(self, "initial", decode(self.initial.get("value")))
        self._encoded(self.initial, "starts from")

    def __repr__(self) -> str:
        # An address in it would make Airflow think that the DAG changes all the time.
        return f"WithParam({type(self.param).__name__}(), {self.initial!r})"

    @property
    def value(self) -> Any:
        return decode(encode(self.initial))

    def tally(self) -> tuple[Any, ...]:
        zero = self._told().zero(self.value)
        self._encoded(zero, "has the zero")
        return executor.ExecutorParam, _pickled_by_value((self.param, zero), type(self.param))

    def merge(self, value: Any, update: Any) -> Any:
        # addInPlace may keep what it is given, so that it gets a copy.
        return self._told().addInPlace(value, decode(encode(update)))

    def add(self, value: Any, term: Any, *, name: str) -> Any:
        return self._told().addInPlace(value, term)

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "param", "value": self._encoded(value, "has the value")}

    def _told(self) -> Any:
        if self.param is None:
            raise SessionError(
                "XCom brought the accumulator's value, and no AccumulatorParam: give it in the callable, "
                "`accumulators.create(name, param=YourParam())`, before you add"
            )
        return self.param

    def _encoded(self, value: Any, what: str) -> Any:
        try:
            return encode(value)
        except TypeError as error:
            raise InvalidArgumentError(
                f"an accumulator with {type(self.param).__name__} {what} {value!r}; its values travel and must be "
                f"plain data, yet {error}"
            ) from None


def _pickled_by_value(value: Any, owner: type) -> bytes:
    """Pickle a value of a class that executors may not have."""
    from pyspark import cloudpickle

    module = sys.modules.get(owner.__module__)
    with _registered(cloudpickle, module):
        pickled: bytes = cloudpickle.dumps(value)
    return pickled


@contextlib.contextmanager
def _registered(cloudpickle: Any, module: Any) -> Iterator[None]:
    if (
        module is None
        or module.__name__.partition(".")[0] in {"__main__", "pyspark", *sys.stdlib_module_names}
        or module.__name__ in cloudpickle.list_registry_pickle_by_value()
    ):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)
