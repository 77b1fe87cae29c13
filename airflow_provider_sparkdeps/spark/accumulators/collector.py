"""The updates of one session's accumulators, as they come in: each use counts once per partition."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators.updates import (
    PREFIX,
    Refused,
    Update,
    Use,
    read_update,
    unreadable,
)
from airflow_provider_sparkdeps.spark.pyspark_compat import ACCUMULATOR_METRIC, decompress_plan

if TYPE_CHECKING:
    import pyspark.sql.connect.proto as pb2

    from airflow_provider_sparkdeps.spark.accumulators.kinds import Kind

log = logging.getLogger(__name__)

_TOKEN = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})".encode())
# What a query's nonces are replaced with starts like this; those of a uuid4 never do.
_PLACE = "0" * 16
_WRITES = ("write_operation", "write_operation_v2", "merge_into_table_command", "checkpoint_command")
_CACHES = ("persist", "unpersist", "get_storage_level")
_ACTIONS = {
    "limit": "limit, first, take or isEmpty",
    "tail": "tail",
    "show_string": "show",
    "html_string": "showing a DataFrame",
    "aggregate": "count, or another aggregate",
}


class UpdateCollector:
    """The updates of one session's accumulators, by operation; a `RequestListener` of the session's channel.

    gRPC calls it from the threads of several operations, and PySpark copies what holds it: there is no lock, and each
    step is one operation on a dict.
    """

    def __init__(self) -> None:
        # operation -> use -> (number of adds, value)
        self._updates: dict[str, dict[Use, tuple[int, Any]]] = {}
        self._succeeded: dict[str, None] = {}
        self._kinds: dict[str, tuple[str, Kind]] = {}
        # operation -> what people call it, and the uses that it took along
        self._sent: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
        self._cached: dict[str, None] = {}
        self._warned: dict[str, None] = {}
        self._foreign: dict[str, None] = {}

    def enter(self, accumulator_id: str, name: str, kind: Kind) -> None:
        """Say that there is an accumulator, or that it is of another kind now."""
        self._kinds[accumulator_id] = (name, kind)

    def on_request(self, request: Any) -> Any:
        """Return the request with the nonces of a query replaced by their places: the first, the second, ...

        The same DataFrame then has the same bytes at each action, and Spark finds what it has cached. Functions and
        views that the server keeps are left alone: their nonces have to differ from those of later queries.
        """
        if not self._kinds:
            return request
        if operation := getattr(request, "operation_id", None):
            self._sent.setdefault(operation, ("", frozenset()))
        request = _uncompressed(request)
        if (action := _query(request)) is None:
            return request
        data = request.SerializeToString()
        places: dict[bytes, dict[bytes, int]] = {}

        def placed(match: re.Match[bytes]) -> bytes:
            owner, nonce = match.groups()
            uses = places.setdefault(owner, {})
            return b"%s:%s:%032x" % (PREFIX.encode(), owner, uses.setdefault(nonce, len(uses)))

        changed = _TOKEN.sub(placed, data)
        uses = frozenset(
            (owner.decode(), f"{place:032x}") for owner, found in places.items() for place in found.values()
        )
        if action in _CACHES:
            for owner, _ in uses:
                self._cached[owner] = None
        elif uses and operation:
            self._sent[operation] = (action, uses)
        return request if changed == data else type(request).FromString(changed)

    def on_response(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None:
        """Take the updates out of a response; they may be those of other operations than this one.

        :raises SessionError: an update is not what our executor side sends, or not of this session's accumulators.
        """
        for metrics in response.observed_metrics:
            if metrics.name != ACCUMULATOR_METRIC:
                continue
            kept = [value for value in metrics.values if not self._take(value.binary)]
            if len(kept) < len(metrics.values):
                del metrics.values[:]
                metrics.values.extend(kept)

    def on_success(self, operation_id: str) -> None:
        """Count what the operation's tasks added.

        :raises SessionError: one of them could not send what it added.
        """
        self._succeeded[operation_id] = None
        for _, value in list(self._updates.get(operation_id, {}).values()):
            _check(value)

    def added(self, accumulator_id: str) -> Iterator[Any]:
        """Yield what succeeded operations have added to an accumulator; in an order that does not depend on timing.

        :raises SessionError: it isn't known what they added.
        """
        if self._foreign:
            raise SessionError(
                f"operation {next(iter(self._foreign))} of another process used accumulators of this session, and "
                "Spark sends updates to whichever process asks first, so that this one can't know its counts: don't "
                "use the id of this task's session elsewhere"
            )
        self._warn_of_undelivered()
        for operation in list(self._succeeded):
            updates = sorted(self._updates.get(operation, {}).items(), key=lambda update: update[0])
            mine = {use: value for use, (_, value) in updates if use.owner == accumulator_id}
            # What an exchange has sampled, it computes again.
            exchanged = {use._replace(place="") for use in mine if use.place.startswith("exchange")}
            for use, value in mine.items():
                if not (use.place.startswith("sample") and use._replace(place="") in exchanged):
                    yield _check(value)

    def forget(self, accumulator_id: str) -> None:
        """Count nothing of what was added to an accumulator so far."""
        for operation in list(self._succeeded):
            updates = self._updates.get(operation, {})
            for use in [use for use in updates if use.owner == accumulator_id]:
                del updates[use]

    def _take(self, pickled: bytes) -> bool:
        """Enter an update if it is ours."""
        update = read_update(pickled)
        if update is None:
            return False
        if update.use.owner not in self._kinds:
            raise SessionError(
                "an update came of an accumulator that this session doesn't have: use accumulators only in UDFs of the "
                "session that made them, and a session's id only in one process"
            )
        if not isinstance(update.value, Refused):
            try:
                self._kinds[update.use.owner][1].check(update.value)
            except ValueError as error:
                raise unreadable(error) from None
        if update.operation and update.operation not in self._sent:
            self._foreign[update.operation] = None
        self._enter(update)
        return True

    def _enter(self, update: Update) -> None:
        updates = self._updates.setdefault(update.operation, {})
        use = update.use
        if use.nonce.startswith(_PLACE):
            # A stage may be run again by another number, and a sort samples in a stage of its own.
            use = use._replace(place="")
        # Spark may evaluate a use twice in a task (a filter on its column) or repeat the task: the fullest counts.
        if update.adds >= updates.get(use, (-1, None))[0]:
            updates[use] = (update.adds, update.value)

    def _warn_of_undelivered(self) -> None:
        """Say which operations took accumulators along and brought nothing back, once for each kind of operation."""
        for operation in list(self._succeeded):
            action, uses = self._sent.get(operation, ("", frozenset()))
            delivered = {(use.owner, use.nonce) for use in self._updates.get(operation, {})}
            # What Spark has cached is not computed again, and rightly brings nothing.
            missing = sorted(
                {self._kinds[owner][0] for owner, _ in uses - delivered if owner in self._kinds} - self._cached_names()
            )
            if uses:
                self._sent[operation] = ("", frozenset())
            if missing and action not in self._warned:
                self._warned[action] = None
                log.warning(
                    "An action (%s) used %s, yet no executor told of what it added: Spark tells nothing of tasks that "
                    "it stops early (limit, show, first), and computes no column that nobody needs (count). If rows "
                    "were computed, they are not counted. For exact counts collect or write all rows, or use "
                    "DataFrame.observe.",
                    _ACTIONS.get(action, action),
                    ", ".join(f"accumulator {name!r}" for name in missing),
                )

    def _cached_names(self) -> set[str]:
        return {self._kinds[owner][0] for owner in list(self._cached) if owner in self._kinds}


def _check(value: Any) -> Any:
    if isinstance(value, Refused):
        raise SessionError(value.words)
    return value


def _uncompressed(request: Any) -> Any:
    """Return a request with its plan in the clear, if PySpark has compressed it for its size."""
    import pyspark.sql.connect.proto as pb2

    if not isinstance(request, pb2.ExecutePlanRequest) or request.plan.WhichOneof("op_type") != "compressed_operation":
        return request
    compressed = request.plan.compressed_operation
    plain = pb2.ExecutePlanRequest()
    plain.CopyFrom(request)
    is_command = compressed.op_type == compressed.OP_TYPE_COMMAND
    plan = plain.plan.command if is_command else plain.plan.root
    plan.CopyFrom(decompress_plan(compressed))
    return plain


def _query(request: Any) -> str | None:
    """Return what a request that computes or caches a query does; None for others."""
    import pyspark.sql.connect.proto as pb2

    if isinstance(request, pb2.AnalyzePlanRequest):
        analyze = request.WhichOneof("analyze")
        return analyze if analyze in _CACHES else None
    if not isinstance(request, pb2.ExecutePlanRequest):
        return None
    if request.plan.WhichOneof("op_type") == "command":
        command = request.plan.command.WhichOneof("command_type")
        return command if command in _WRITES else None
    return request.plan.root.WhichOneof("rel_type") if request.plan.WhichOneof("op_type") == "root" else None
