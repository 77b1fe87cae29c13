"""Decides which evaluations of an accumulator's use count; docs/counting.md has the rule and its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from airflow_provider_sparkdeps.spark.accumulators.uses import Use


class Evaluation(NamedTuple):
    """What one run of a Python worker added through one use. Spark sends it if its task has succeeded.

    :param task: Spark's id of the attempt of the task.
    :param sampled_for: the exchange for which the task sampled its rows; empty if it did not.
    :param start: when the worker unpickled the function, in nanoseconds of its machine's monotonic clock.
    :param end: when all rows were evaluated.
    :param worker: the process.
    :param adds: how often `add` was called.
    """

    stage: int
    partition: int
    task: int
    sampled_for: str
    start: int
    end: int
    worker: int
    adds: int
    value: Any


@dataclass(frozen=True)
class Counted:
    """The evaluations that count.

    :param doubt: why they may be too many; empty if they are not.
    """

    evaluations: tuple[Evaluation, ...]
    doubt: str = ""


# The evaluations of a stage, by partition: those of one attempt, in the order in which they ended.
_Stage = dict[int, list[Evaluation]]


def count(evaluations: Iterable[Evaluation], use: Use | None, *, may_be_cached: bool = False) -> Counted:
    """Return the evaluations of one use in one operation that count: each row once, where that can be known.

    What is left out is certain to be a repetition. In doubt, more counts, as Spark's own accumulators would.

    :param use: what the query says about the use; None if it does not show it.
    :param may_be_cached: the session may have let Spark keep rows, so that samples are not evaluated again.
    """
    use = use or Use(known=False)
    keep = not use.is_once and (may_be_cached or not use.repeats_samples)
    stages = _without_samples(_by_stage(evaluations), once=use.is_once, keep=keep)
    if use.is_once:
        stages = _of_one_place(stages)
    counted: list[Evaluation] = []
    doubts = ["in more stages than it has places"] if len(stages) > use.places else []
    for stage in stages:
        if use.crossed and _repeats_itself(stage):
            doubts.append("a cross join may have evaluated each partition several times")
        for each, doubt in _of_stage(stage, use):
            counted += each
            doubts += [doubt] if doubt else []
    return Counted(tuple(counted), doubts[0] if doubts else "")


def _by_stage(evaluations: Iterable[Evaluation]) -> dict[int, _Stage]:
    attempts: dict[tuple[int, int], dict[int, list[Evaluation]]] = {}
    for each in evaluations:
        attempts.setdefault((each.stage, each.partition), {}).setdefault(each.task, []).append(each)
    stages: dict[int, _Stage] = {}
    for (stage, partition), tasks in sorted(attempts.items()):
        # Attempts of a task compute the same.
        last = tasks[max(tasks)]
        stages.setdefault(stage, {})[partition] = sorted(last, key=lambda each: each.end)
    return stages


def _signature(evaluations: Sequence[Evaluation]) -> list[tuple[int, Any]]:
    return [(each.adds, each.value) for each in evaluations]


def _without_samples(stages: dict[int, _Stage], *, once: bool, keep: bool) -> list[_Stage]:
    """Leave out partitions that Spark evaluated to find the ranges of a sort, if it evaluated them again after that.

    It samples all partitions in one stage, and large ones again in another, with other numbers.
    """
    real = [stage for stage in stages.values() if not _sampled_for(stage)]
    real_stages = list(real)
    unused = [dict(stage) for stage in real]
    first: dict[str, _Stage] = {}
    repeated: dict[str, bool] = {}
    for stage in stages.values():
        exchange = _sampled_for(stage)
        if not exchange:
            continue
        sample = first.setdefault(exchange, stage)
        # Without adaptive execution, a broadcast may have run in the scope of the exchange.
        is_sure = once or repeated.get(exchange, False)
        if is_sure and len(stage) < len(sample) and _is_part(stage, sample):
            continue
        left = dict(stage)
        for partition, evaluations in stage.items() if not keep else ():
            for whole, other in zip(real_stages, unused, strict=True):
                is_part = stage.keys() <= whole.keys()
                is_like = _is_like(stage, whole) if once else _has(whole, partition, evaluations)
                if partition in other and is_part and is_like:
                    del other[partition], left[partition]
                    break
        repeated.setdefault(exchange, not left)
        if left:
            real.append(left)
    return sorted(real, key=lambda stage: min(each.stage for found in stage.values() for each in found))


def _sampled_for(stage: _Stage) -> str:
    return next(iter(stage.values()))[0].sampled_for


def _is_like(stage: _Stage, whole: _Stage) -> bool:
    """Return whether `add` was called as often in each partition of a stage as in another one.

    A stage below the one that samples may be part of the same job.
    """
    return all(
        partition in whole and [each.adds for each in found] == [each.adds for each in whole[partition]]
        for partition, found in stage.items()
    )


def _is_part(stage: _Stage, whole: _Stage) -> bool:
    """Return whether the partitions of a stage are some of another one's, in the same order."""
    others = iter(_signature(evaluations) for evaluations in whole.values())
    return all(any(_signature(evaluations) == other for other in others) for evaluations in stage.values())


def _of_one_place(stages: list[_Stage]) -> list[_Stage]:
    """Leave out what Spark evaluated again in another stage: what was lost, and conditions that it also moved down."""
    kept: list[_Stage] = []
    for stage in stages:
        again = {number: found for number, found in stage.items() if any(number in one for one in kept)}
        if all(any(_has(one, number, found) for one in kept) for number, found in again.items()):
            # Lost partitions. Others are computed for the first time.
            if new := {number: found for number, found in stage.items() if number not in again}:
                kept.append(new)
        elif not any(again.keys() & one.keys() and _adds(stage) <= _adds(one) for one in kept):
            # Other rows than those of a condition that Spark has evaluated below an exchange before.
            kept.append(stage)
    return kept


def _adds(stage: _Stage) -> int:
    return sum(each.adds for evaluations in stage.values() for each in evaluations)


def _has(stage: _Stage, partition: int, found: list[Evaluation]) -> bool:
    return partition in stage and _signature(stage[partition]) == _signature(found)


def _repeats_itself(stage: _Stage) -> bool:
    """Return whether each partition of a stage has the same value as another one."""
    values = Counter(repr(_signature(evaluations)) for evaluations in stage.values())
    return min(values.values()) > 1


def _of_stage(stage: _Stage, use: Use) -> Iterator[tuple[list[Evaluation], str]]:
    most = max(map(len, stage.values()))
    size = 1
    doubt = ""
    if most == 1 or (use.several and not use.narrowed):
        pass  # Without a filter, nothing is evaluated twice.
    elif not (use.known and (use.apart or use.is_once)):
        # Without a filter, these are its places.
        doubt = "it may stand there more than once" if use.narrowed or not use.known else ""
    elif use.several:
        size, doubt = _repetitions(list(stage.values()))
    else:
        size = most
    for evaluations in stage.values():
        # Of several evaluations of the same rows, the first that ends has all of them.
        yield evaluations[::size], doubt


def _repetitions(tasks: list[list[Evaluation]]) -> tuple[int, str]:
    """Return how often tasks evaluated each of their partitions, and a reason for doubt, or an empty string.

    Partitions come one after the other. Evaluations of one partition are of different workers, and may overlap.
    """
    fitting = [size for size in range(1, max(map(len, tasks)) + 1) if all(_fits(task, size) for task in tasks)]
    if not fitting:
        return 1, "its evaluations are not understood"
    doubt = "a task computed several partitions" if len(fitting) > 1 and fitting[0] == 1 else ""
    return fitting[0], doubt


def _fits(task: list[Evaluation], size: int) -> bool:
    if len(task) % size:
        return False
    groups = [task[start : start + size] for start in range(0, len(task), size)]
    latest = [max(each.end for each in group) for group in groups]
    apart = all(min(each.start for each in group) > end for group, end in zip(groups[1:], latest, strict=False))
    alone = all(len({each.worker for each in group}) == size for group in groups)
    smaller = all(one.adds >= other.adds for group in groups for one, other in pairwise(group))
    return apart and alone and smaller
