"""Collects the updates of one session's accumulators, by operation and use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark.accumulators.counting import Evaluation, count
from airflow_provider_sparkdeps.spark.accumulators.kinds import AccumulatorKind
from airflow_provider_sparkdeps.spark.accumulators.plan import Plan
from airflow_provider_sparkdeps.spark.accumulators.updates import FailedUpdate, read_update, unreadable
from airflow_provider_sparkdeps.spark.accumulators.uses import UseFinder, UseKey, Uses, query_of
from airflow_provider_sparkdeps.spark.pyspark_compat import ACCUMULATOR_METRIC, decompress_request

if TYPE_CHECKING:
    import pyspark.sql.connect.proto as pb2

log = logging.getLogger(__name__)

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

    def __init__(self, explain: Callable[[Any], str] = lambda _: "") -> None:
        """Create a collector without updates.

        :param explain: returns how Spark would run a relation, as `DataFrame.explain` prints it; an empty string if
            it is not known.
        """
        self._explain = explain
        # (operation, batch) -> use -> evaluations, by all but their value: they may be delivered more than once
        self._updates: dict[tuple[str, str], dict[UseKey, dict[tuple[Any, ...], Evaluation]]] = {}
        self._succeeded: dict[str, None] = {}
        self._kinds: dict[str, tuple[str, AccumulatorKind]] = {}
        self._finder = UseFinder()
        # operation -> its action, and the uses that it contains
        self._sent: dict[str, tuple[str, Uses]] = {}
        self._cached: dict[str, None] = {}
        self._warned: dict[Any, None] = {}
        self._foreign: dict[str, None] = {}
        self._has_foreach_batch = False

    def register(self, accumulator_id: str, name: str, kind: AccumulatorKind) -> None:
        """Add an accumulator, or change its kind."""
        self._kinds[accumulator_id] = (name, kind)

    def on_request(self, request: Any) -> Any:
        """Return the request with the identities of its uses in place of random ones."""
        import pyspark.sql.connect.proto as pb2

        if not self._kinds:
            return request
        request = decompress_request(request)
        request, uses = self._finder.identify(request)
        action = _action(request)
        if isinstance(request, pb2.ExecutePlanRequest):
            stream = request.plan.command.write_stream_operation_start
            self._has_foreach_batch |= stream.HasField("foreach_batch")
        if action in _CACHES:
            self._cached.update(dict.fromkeys(accumulator_id for accumulator_id, _ in uses))
        elif operation := getattr(request, "operation_id", None):
            self._sent.setdefault(operation, (action or "", self._with_plan(request, uses)))
        return request

    def _with_plan(self, request: Any, uses: Uses) -> Uses:
        query = query_of(request)
        if query is None or not any(use.needs_plan for use in uses.values()):
            return uses
        plan = Plan(self._explain(query))
        return {key: use.with_plan(plan) if use.needs_plan else use for key, use in uses.items()}

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
        """Count what the operation's tasks added."""
        self._succeeded[operation_id] = None

    def updates_of(self, accumulator_id: str) -> Iterator[Any]:
        """Yield what succeeded operations have added to an accumulator, in an order that does not depend on timing.

        What an executor could not send is a `FailedUpdate`.

        :raises SessionError: if this is not known.
        """
        if self._foreign:
            raise SessionError(
                "Could not compute the accumulators of this session: operation "
                f"{next(iter(self._foreign))} of another process used them, and Spark sends updates to any process "
                "of the session. Do not use the id of this session in another process."
            )
        self._warn_about_missing_updates()
        cached: dict[tuple[str, UseKey], list[Evaluation]] = {}
        used: set[tuple[str, UseKey]] = set()
        for (operation, batch), key, evaluations in self._evaluations_of(accumulator_id):
            use = self._sent.get(operation, ("", {}))[1].get(key)
            counted = count(evaluations, use, may_be_cached=key in self._finder.kept)
            if use and use.cached and use.is_once:
                # A partition of a cached DataFrame counts once, in whatever query Spark computed it.
                found = cached.setdefault((use.cached, key), [])
                known = {(each.partition, each.adds, repr(each.value)) for each in found}
                found += [
                    each for each in counted.evaluations if (each.partition, each.adds, repr(each.value)) not in known
                ]
                used |= {(use.cached, key)} if operation in self._succeeded else set()
            elif operation in self._succeeded:
                if counted.doubt:
                    self._warn_about_doubt(accumulator_id, (operation, batch), counted.doubt)
                yield from (each.value for each in counted.evaluations)
        for place, evaluations in cached.items():
            if place in used:
                yield from (each.value for each in evaluations)

    def discard(self, accumulator_id: str) -> None:
        """Remove all updates of an accumulator by operations that have succeeded."""
        for (operation, _), uses in list(self._updates.items()):
            for key in [key for key in uses if key[0] == accumulator_id and operation in self._succeeded]:
                del uses[key]

    def _evaluations_of(self, accumulator_id: str) -> Iterator[tuple[tuple[str, str], UseKey, list[Evaluation]]]:
        for place, uses in list(self._updates.items()):
            for key in sorted(key for key in list(uses) if key[0] == accumulator_id):
                yield place, key, list(uses[key].values())

    def _accept(self, pickled: bytes) -> bool:
        """Collect an update, and return whether it belongs to one of our accumulators."""
        update = read_update(pickled)
        if update is None:
            return False
        accumulator_id, value = update.use[0], update.evaluation.value
        if accumulator_id not in self._kinds:
            raise SessionError(
                "Received an update of an accumulator that this session does not have. Use accumulators only in UDFs "
                "of the session that created them, and the id of a session only in one process."
            )
        if not isinstance(value, FailedUpdate):
            try:
                self._kinds[accumulator_id][1].check(value)
            except ValueError as error:
                raise unreadable(error) from None
        if update.operation and update.operation not in self._sent:
            # The server has a client of its own that runs `foreachBatch` of this session's streams.
            operations = self._succeeded if self._has_foreach_batch else self._foreign
            operations[update.operation] = None
        uses = self._updates.setdefault((update.operation, update.batch), {})
        uses.setdefault(update.use, {})[update.evaluation[:-1]] = update.evaluation
        return True

    def _warn_about_doubt(self, accumulator_id: str, operation: tuple[str, str], doubt: str) -> None:
        name, kind = self._kinds[accumulator_id]
        if kind.repetitions_count and (accumulator_id, operation) not in self._warned:
            self._warned[accumulator_id, operation] = None
            log.warning(
                "Accumulator %r may be too high: Spark evaluated a function of a query more than once, and it is not "
                "known whether these were the same rows (%s). See 'What is not exact' in the documentation of "
                "accumulators.",
                name,
                doubt,
            )

    def _warn_about_missing_updates(self) -> None:
        """Log operations that used accumulators and returned no updates, once for each action."""
        for operation in list(self._succeeded):
            action, uses = self._sent.get(operation, ("", {}))
            if not action:
                continue
            received = self._updates.get((operation, ""), {}).keys()
            # Spark does not compute what it has cached, so there are no updates of it.
            ids = {accumulator_id for accumulator_id, _ in uses.keys() - received}
            missing = sorted(self._names_of(ids) - self._names_of(self._cached))
            self._sent[operation] = ("", uses)
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
