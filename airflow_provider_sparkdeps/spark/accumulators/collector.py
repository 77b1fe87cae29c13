"""Collects the updates of one session's accumulators, and counts each use once per partition."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators.kinds import AccumulatorKind
from airflow_provider_sparkdeps.spark.accumulators.updates import (
    PREFIX,
    FailedUpdate,
    Update,
    UpdateKey,
    read_update,
    unreadable,
)
from airflow_provider_sparkdeps.spark.pyspark_compat import ACCUMULATOR_METRIC, decompress_request

if TYPE_CHECKING:
    import pyspark.sql.connect.proto as pb2

log = logging.getLogger(__name__)

_TOKEN = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([0-9a-f]{{32}})".encode())
# The nonces of a query are replaced by numbers with this prefix, which no uuid4 has.
_NUMBERED = "0" * 16
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

    gRPC calls it from the threads of several operations, and PySpark copies the objects that refer to it. So there is
    no lock, and each step is one operation on a dict.
    """

    def __init__(self) -> None:
        # operation -> key -> (number of adds, value)
        self._updates: dict[str, dict[UpdateKey, tuple[int, Any]]] = {}
        self._succeeded: dict[str, None] = {}
        self._kinds: dict[str, tuple[str, AccumulatorKind]] = {}
        # operation -> its action, and the uses that it contains: (accumulator id, nonce)
        self._sent: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
        self._cached: dict[str, None] = {}
        self._warned: dict[str, None] = {}
        self._foreign: dict[str, None] = {}

    def register(self, accumulator_id: str, name: str, kind: AccumulatorKind) -> None:
        """Add an accumulator, or change its kind."""
        self._kinds[accumulator_id] = (name, kind)

    def on_request(self, request: Any) -> Any:
        """Return the request with the nonces of a query replaced by numbers: 0 for the first, 1 for the second, ...

        A DataFrame then has the same bytes at each action, and Spark finds what it has cached. The nonces of functions
        and views that the server keeps are not replaced: they must differ from those of later queries.
        """
        if not self._kinds:
            return request
        if operation := getattr(request, "operation_id", None):
            self._sent.setdefault(operation, ("", frozenset()))
        request = decompress_request(request)
        if (action := _action(request)) is None:
            return request
        data = request.SerializeToString()
        numbers: dict[bytes, dict[bytes, int]] = {}

        def replace_nonce(match: re.Match[bytes]) -> bytes:
            accumulator, nonce = match.groups()
            known = numbers.setdefault(accumulator, {})
            return b"%s:%s:%032x" % (PREFIX.encode(), accumulator, known.setdefault(nonce, len(known)))

        changed = _TOKEN.sub(replace_nonce, data)
        uses = frozenset(
            (accumulator.decode(), f"{number:032x}")
            for accumulator, known in numbers.items()
            for number in known.values()
        )
        if action in _CACHES:
            for accumulator_id, _ in uses:
                self._cached[accumulator_id] = None
        elif uses and operation:
            self._sent[operation] = (action, uses)
        return request if changed == data else type(request).FromString(changed)

    def on_response(self, operation_id: str, response: pb2.ExecutePlanResponse) -> None:
        """Remove the updates from a response, and collect them. They may be from other operations.

        :raises SessionError: if an update can't have come from this package's code on executors, or is for an
            accumulator of another session.
        """
        for metrics in response.observed_metrics:
            if metrics.name != ACCUMULATOR_METRIC:
                continue
            kept = [value for value in metrics.values if not self._accept(value.binary)]
            if len(kept) < len(metrics.values):
                del metrics.values[:]
                metrics.values.extend(kept)

    def on_success(self, operation_id: str) -> None:
        """Count what the operation's tasks added.

        :raises SessionError: if a task could not send its update.
        """
        self._succeeded[operation_id] = None
        for _, value in list(self._updates.get(operation_id, {}).values()):
            _raise_if_failed(value)

    def updates_of(self, accumulator_id: str) -> Iterator[Any]:
        """Yield what succeeded operations have added to an accumulator, in an order that does not depend on timing.

        :raises SessionError: if this is not known.
        """
        if self._foreign:
            raise SessionError(
                "Could not compute the accumulators of this session: operation "
                f"{next(iter(self._foreign))} of another process used them, and Spark sends updates to any process "
                "of the session. Do not use the id of this session in another process."
            )
        self._warn_about_missing_updates()
        for operation in list(self._succeeded):
            updates = sorted(self._updates.get(operation, {}).items(), key=lambda update: update[0])
            found = {key: value for key, (_, value) in updates if key.accumulator_id == accumulator_id}
            # An exchange computes the rows that it has sampled again.
            exchanged = {key._replace(position="") for key in found if key.position.startswith("exchange")}
            for key, value in found.items():
                if not (key.position.startswith("sample") and key._replace(position="") in exchanged):
                    yield _raise_if_failed(value)

    def discard(self, accumulator_id: str) -> None:
        """Remove all updates of an accumulator by operations that have succeeded."""
        for operation in list(self._succeeded):
            updates = self._updates.get(operation, {})
            for key in [key for key in updates if key.accumulator_id == accumulator_id]:
                del updates[key]

    def _accept(self, pickled: bytes) -> bool:
        """Collect an update, and return whether it belongs to one of our accumulators."""
        update = read_update(pickled)
        if update is None:
            return False
        if update.key.accumulator_id not in self._kinds:
            raise SessionError(
                "Received an update of an accumulator that this session does not have. Use accumulators only in UDFs "
                "of the session that created them, and the id of a session only in one process."
            )
        if not isinstance(update.value, FailedUpdate):
            try:
                self._kinds[update.key.accumulator_id][1].check(update.value)
            except ValueError as error:
                raise unreadable(error) from None
        if update.operation and update.operation not in self._sent:
            self._foreign[update.operation] = None
        self._add(update)
        return True

    def _add(self, update: Update) -> None:
        updates = self._updates.setdefault(update.operation, {})
        key = update.key
        if key.nonce.startswith(_NUMBERED):
            # A repeated stage may have another number, and a sort samples in a separate stage.
            key = key._replace(position="")
        # Spark may evaluate a use twice in a task (a filter on its column) or repeat the task. The update with the most
        # adds counts.
        if update.adds >= updates.get(key, (-1, None))[0]:
            updates[key] = (update.adds, update.value)

    def _warn_about_missing_updates(self) -> None:
        """Log operations that used accumulators and returned no updates, once for each action."""
        for operation in list(self._succeeded):
            action, uses = self._sent.get(operation, ("", frozenset()))
            received = {(key.accumulator_id, key.nonce) for key in self._updates.get(operation, {})}
            # Spark does not compute what it has cached, so there are no updates of it.
            ids = {accumulator_id for accumulator_id, _ in uses - received}
            missing = sorted(self._names_of(ids) - self._names_of(self._cached))
            if uses:
                self._sent[operation] = ("", frozenset())
            if missing and action not in self._warned:
                self._warned[action] = None
                log.warning(
                    "No updates of %s were received from an action (%s): Spark drops updates of tasks that it stops "
                    "early (limit, show, first), and does not compute columns that nobody needs (count). Rows that "
                    "were computed are not counted. Collect or write all rows for exact counts, or use "
                    "DataFrame.observe.",
                    ", ".join(f"accumulator {name!r}" for name in missing),
                    _ACTIONS.get(action, action),
                )

    def _names_of(self, accumulator_ids: Iterable[str]) -> set[str]:
        return {self._kinds[each][0] for each in list(accumulator_ids) if each in self._kinds}


def _raise_if_failed(value: Any) -> Any:
    if isinstance(value, FailedUpdate):
        raise SessionError(value.message)
    return value


def _action(request: Any) -> str | None:
    """Return the action of a request that computes or caches a query; None for other requests."""
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
