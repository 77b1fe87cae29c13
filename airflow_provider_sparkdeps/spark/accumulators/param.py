"""The kind of accumulator that adds terms with a user's `AccumulatorParam`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.accumulators import executor
from airflow_provider_sparkdeps.spark.accumulators.codec import decode, encode
from airflow_provider_sparkdeps.spark.accumulators.kinds import AccumulatorKind


@dataclass(frozen=True, repr=False)
class WithParam(AccumulatorKind):
    """A value to which an `AccumulatorParam` adds the terms, in the callable and on executors.

    :param param: PySpark's `AccumulatorParam`, or any object with its methods `zero(value)` and
        `addInPlace(value1, value2)`. It is sent to executors by value. None for a value from XCom, which does not
        keep params; see `Accumulators.create`.
    :param initial: the value to start from: numbers, strings, bytes, dates, and lists, tuples, sets or dicts of them.
    """

    param: Any
    initial: Any = 0

    def __post_init__(self) -> None:
        if isinstance(self.param, type):
            raise InvalidArgumentError(f"param is the class {self.param.__name__}. Use {self.param.__name__}().")
        missing = [name for name in ("zero", "addInPlace") if not callable(getattr(self.param, name, None))]
        if self.param is not None and missing:
            raise InvalidArgumentError(
                f"{type(self.param).__name__} is not an AccumulatorParam: it has no method {missing[0]}. Add it."
            )
        if isinstance(self.initial, Mapping) and self.initial.get("kind") == "param":
            object.__setattr__(self, "initial", decode(self.initial.get("value")))
        self._encode(self.initial)

    def __repr__(self) -> str:
        # An address in it would make Airflow see a new version of the DAG each time it is parsed.
        return f"WithParam({type(self.param).__name__}(), {self.initial!r})"

    @property
    def value(self) -> Any:
        return decode(encode(self.initial))

    def executor_args(self) -> tuple[Any, ...]:
        zero = self._require_param().zero(self.value)
        self._encode(zero)
        return executor.ExecutorParam, _pickle_by_value((self.param, zero), type(self.param))

    def merge(self, value: Any, update: Any) -> Any:
        # `addInPlace` may keep its argument, so it gets a copy.
        return self._require_param().addInPlace(value, decode(encode(update)))

    def add(self, value: Any, term: Any, *, name: str) -> Any:
        return self._require_param().addInPlace(value, term)

    def to_xcom(self, value: Any) -> Any:
        return {"kind": "param", "value": self._encode(value)}

    def _require_param(self) -> Any:
        if self.param is None:
            raise SessionError(
                "The accumulator's value comes from XCom, which does not keep its AccumulatorParam. Pass it in the "
                "callable before you add: `accumulators.create(name, param=YourParam())`."
            )
        return self.param

    def _encode(self, value: Any) -> Any:
        try:
            return encode(value)
        except TypeError as error:
            raise InvalidArgumentError(
                f"An accumulator with {type(self.param).__name__} can't have the value {value!r:.60}: {error}"
            ) from None


def _pickle_by_value(value: Any, owner: type) -> bytes:
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
