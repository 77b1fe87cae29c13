"""Accumulators on Spark Connect: added to on executors, read in the task, each use counted once per partition."""

from __future__ import annotations

import contextlib
import json
import pickle
import pickletools
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.errors import SessionError, WishError
from airflow_provider_sparkdeps.spark import executor_side

if TYPE_CHECKING:
    import pyspark.sql.connect.proto as pb2

Number = int | float

_PREFIX = "sparkdeps-accumulator"
_METRIC = "__python_accumulator__"
_TOKEN = re.compile(rf"{_PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})".encode())
# What two strings in a tuple need; nothing here can name a class, call a function or reserve memory.
_HARMLESS = frozenset({"PROTO", "FRAME", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "MEMOIZE", "TUPLE2", "STOP"})


def check_initial_values(values: Any) -> dict[str, Number]:
    """Return accumulators' initial values, by name, as numbers.

    :param values: name -> int, float, or the text of one (templates render to text).
    :raises WishError: it is no mapping, a name is no identifier, a value is no number.
    """
    if not isinstance(values, Mapping):
        raise WishError(
            f"accumulators is a {type(values).__name__}; write a dict of names and initial values, "
            'such as {"bad_rows": 0}'
        )
    return {check_name(name): _number(name, value) for name, value in values.items()}


def check_name(name: Any) -> str:
    """Return `name` if it can name an accumulator.

    :raises WishError: it is no identifier.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise WishError(
            f"accumulator name {name!r} is no identifier: use letters, digits and '_', not starting with a digit"
        )
    return name


def _number(name: str, value: Any) -> Number:
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WishError(f"accumulator {name!r} starts from {value!r} ({type(value).__name__}): write an int or a float")
    return value


class Accumulator:
    """A number that UDFs add to on executors and the task's callable reads.

    Made by `Session.accumulator`. An operation counts only once it has succeeded, and each place where a UDF stands
    in its query counts once per partition, whatever Spark repeats.
    """

    def __init__(self, name: str, initial: Number, ledger: Ledger) -> None:
        from pyspark.cloudpickle import register_pickle_by_value

        self.name = name
        self._initial = initial
        self._ledger = ledger
        self._id = uuid.uuid4().hex
        ledger.use()
        register_pickle_by_value(executor_side)

    @property
    def value(self) -> Number:
        """The initial value, and what was added since by succeeded operations and by `add` here."""
        return self._initial + self._ledger.total(self._id)

    def add(self, term: Number) -> None:
        """Add a number; here in the callable at once, in a UDF when its operation has succeeded."""
        self._initial += term

    def __iadd__(self, term: Number) -> Accumulator:
        self.add(term)
        return self

    def __reduce__(self) -> tuple[Any, tuple[str, str, Number]]:
        # PySpark pickles each use of a UDF in a plan by itself, so that a new name here tells uses apart.
        token = f"{_PREFIX}:{self._id}:{uuid.uuid4().hex}"
        return executor_side.restore, (token, self.name, type(self._initial)(0))

    def __repr__(self) -> str:
        return f"Accumulator({self.name}={self.value})"


class Accumulators(dict[str, Accumulator]):
    """A task's accumulators by name."""

    def __missing__(self, name: str) -> Accumulator:
        raise SessionError(
            f"this task has no accumulator {name!r} (it has: {', '.join(sorted(self)) or 'none'}): name it in the "
            f'operator\'s `accumulators={{"{name}": 0}}`'
        )


class Ledger:
    """The updates of one session's accumulators, by operation; an `Observer` of the session's channel.

    gRPC calls it from the threads of several operations, and PySpark copies what holds it: there is no lock, and each
    step is one operation on a dict.
    """

    def __init__(self) -> None:
        # operation -> (accumulator, nonce, partition) -> (number of adds, sum)
        self._updates: dict[str, dict[tuple[str, str, int], tuple[int, Number]]] = {}
        self._succeeded: dict[str, None] = {}
        self._in_use = False

    def use(self) -> None:
        """Say that there is an accumulator, and requests have to be looked at."""
        self._in_use = True

    def sends(self, request: Any) -> Any:
        """Return the request with the nonces of a query replaced by their places: the first, the second, ...

        The same DataFrame then has the same bytes at each action, and Spark finds what it has cached. Functions and
        views that the server keeps are left alone: their nonces have to differ from those of later queries.
        """
        if not self._in_use or not _is_query(request):
            return request
        data = request.SerializeToString()
        places: dict[bytes, dict[bytes, int]] = {}

        def placed(match: re.Match[bytes]) -> bytes:
            owner, nonce = match.groups()
            uses = places.setdefault(owner, {})
            return b"%s:%s:%032x" % (_PREFIX.encode(), owner, uses.setdefault(nonce, len(uses)))

        changed = _TOKEN.sub(placed, data)
        return request if changed == data else type(request).FromString(changed)

    def saw(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None:
        """Take the updates out of a response; they may be those of other operations than this one.

        :raises SessionError: an update is not what our executor side sends.
        """
        for metrics in response.observed_metrics:
            if metrics.name != _METRIC:
                continue
            kept = [value for value in metrics.values if not self._take(value.binary)]
            if len(kept) < len(metrics.values):
                del metrics.values[:]
                metrics.values.extend(kept)

    def succeeded(self, operation_id: str) -> None:
        """Count what the operation's tasks added."""
        self._succeeded[operation_id] = None

    def total(self, accumulator_id: str) -> Number:
        """What succeeded operations have added to an accumulator; in an order that does not depend on timing."""
        return sum(
            added
            for operation in list(self._succeeded)
            for (owner, _, _), (_, added) in sorted(self._updates.get(operation, {}).items())
            if owner == accumulator_id
        )

    def _take(self, pickled: bytes) -> bool:
        """Enter an update if it is ours."""
        if _PREFIX.encode() not in pickled:
            _refuse_unrestricted(pickled)
            return False
        try:
            token, text = _loads_strings(pickled)
            _, owner, nonce = token.split(":")
            operation, _stage, partition, adds, added = json.loads(text)
        except ValueError as error:
            raise SessionError(
                f"an executor sent an accumulator update that can't be read ({error}); nothing of it was used. "
                "Look at what runs on this cluster beside your UDFs."
            ) from None
        updates = self._updates.setdefault(operation, {})
        use = (owner, nonce, partition)
        # Spark may evaluate a use twice in a task (a filter on its column) or repeat the task: the fullest counts.
        if adds >= updates.get(use, (-1, 0))[0]:
            updates[use] = (adds, added)
        return True


def _is_query(request: Any) -> bool:
    import pyspark.sql.connect.proto as pb2

    if isinstance(request, pb2.AnalyzePlanRequest):
        return request.WhichOneof("analyze") in ("persist", "unpersist", "get_storage_level")
    if not isinstance(request, pb2.ExecutePlanRequest):
        return False
    if request.plan.WhichOneof("op_type") == "command":
        return request.plan.command.WhichOneof("command_type") in ("write_operation", "write_operation_v2")
    return request.plan.WhichOneof("op_type") == "root"


def _loads_strings(pickled: bytes) -> tuple[str, str]:
    """Unpickle a pair of strings, and nothing else.

    :raises ValueError: the pickle holds anything else.
    """
    for opcode, _, _ in pickletools.genops(pickled):
        if opcode.name not in _HARMLESS:
            raise ValueError(f"its pickle wants {opcode.name}")
    try:
        pair = pickle.loads(pickled)  # noqa: S301 (only harmless opcodes are left)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
        raise ValueError("it is not a pair of strings")
    return pair


def _refuse_unrestricted(pickled: bytes) -> None:
    """Keep from PySpark's client what it would unpickle without an allow-list, as releases before 4.3 do."""
    from pyspark import accumulators

    if hasattr(accumulators, "specialAccumulatorSer"):
        return
    for opcode, _, _ in pickletools.genops(pickled):
        if opcode.name in {"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}:
            raise SessionError(
                "an executor sent an accumulator update that names a class; this PySpark would load it. "
                "Upgrade the worker's pyspark to 4.3, or do without the UDF profiler."
            )
