"""Which evaluations count, without Spark: each way in which it repeats them, as docs/counting.md lists them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_sparkdeps.spark.accumulators.counting import Evaluation, count
from airflow_provider_sparkdeps.spark.accumulators.uses import Use

ONE = Use(narrowed=True)
SAMPLE, OTHER_SAMPLE = '{"id":"spark_plan_7","name":"Exchange"}', '{"id":"spark_plan_9","name":"Exchange"}'


def evaluated(
    value: int, *, stage: int = 1, partition: int = 0, task: int = 0, at: tuple[int, int] = (0, 1), **other: Any
) -> Evaluation:
    """Return an evaluation that counts `value` rows between two times."""
    fields: dict[str, Any] = {"sampled_for": "", "worker": 1, "adds": value, "value": value} | other
    return Evaluation(stage, partition, task or 100 * stage + partition, start=at[0], end=at[1], **fields)


def counted(*evaluations: Evaluation, use: Use | None = ONE, **options: Any) -> int:
    return sum(each.value for each in count(evaluations, use, **options).evaluations)


def stage(number: int, *values: int, **other: Any) -> list[Evaluation]:
    return [evaluated(value, stage=number, partition=index, **other) for index, value in enumerate(values)]


FILTER = [evaluated(250, at=(0, 10), worker=1), evaluated(240, at=(5, 12), worker=2)]


def test_an_attempt_of_a_task_counts() -> None:
    assert counted(evaluated(250, task=1), evaluated(250, task=2), evaluated(250, partition=1, task=3)) == 500


def test_of_two_evaluations_of_a_place_in_a_task_the_first_that_ends_counts() -> None:
    assert counted(*FILTER) == 250
    # Also if it calls `add` as often, once for each batch, and if the other one starts after it.
    batches = [evaluated(250, at=(0, 10), adds=1), evaluated(240, at=(11, 12), adds=1)]
    assert counted(*batches) == 250
    # In a union, each task computes one side.
    assert counted(*FILTER, evaluated(30, partition=1), use=Use(places=2, narrowed=True, apart=True)) == 280


@pytest.mark.parametrize("use", [None, Use(known=False), Use(places=2), Use(copied=True, narrowed=True)])
def test_all_count_where_they_may_be_of_different_places(use: Use | None) -> None:
    found = count(FILTER, use)
    assert sum(each.value for each in found.evaluations) == 490
    # Two evaluations of two places are not in doubt.
    assert bool(found.doubt) == (use is None or use.places != 2)


def test_a_condition_that_is_evaluated_below_an_exchange_first_counts_there() -> None:
    below, above = stage(1, 100, 100), stage(2, 90, 0, 80)
    assert counted(*below, *above) == 200
    assert count([*below, *above], ONE).doubt == ""
    # If it may stand on both sides of a join, both count.
    assert counted(*below, *above, use=Use(copied=True)) == 370
    # More rows than below are other rows.
    found = count([*stage(1, 10, 10), *stage(2, 90, 80)], ONE)
    assert (sum(each.value for each in found.evaluations), bool(found.doubt)) == (190, True)
    # Partitions that are computed one after the other, as for `take`.
    assert counted(*stage(1, 100), evaluated(90, stage=2, partition=1), evaluated(80, stage=2, partition=2)) == 270


def coalesced(*times: tuple[int, int], values: tuple[int, ...] = (250, 240, 250, 240)) -> list[Evaluation]:
    return [
        evaluated(value, at=at, worker=index % 2) for index, (value, at) in enumerate(zip(values, times, strict=True))
    ]


def test_a_task_with_several_partitions_counts_each_once() -> None:
    use = Use(several=True)
    assert counted(*coalesced((0, 1), (2, 3), (4, 5), (6, 7)), use=use) == 980, "without a filter"
    use = Use(several=True, narrowed=True, planned=True)
    overlapping = count(coalesced((0, 2), (1, 3), (4, 5), (6, 7)), use)
    assert (sum(each.value for each in overlapping.evaluations), overlapping.doubt) == (500, "")
    apart = count(coalesced((0, 1), (2, 3), (4, 5), (6, 7)), use)
    assert sum(each.value for each in apart.evaluations) == 980
    assert "several partitions" in apart.doubt
    # A process can't be both sides of a filter, and a filter does not add rows.
    one_process = [each._replace(worker=1) for each in coalesced((0, 1), (2, 3), (4, 5), (6, 7))]
    growing = coalesced((0, 1), (2, 3), (4, 5), (6, 7), values=(1, 2, 3, 4))
    assert [count(each, use).doubt for each in (one_process, growing)] == ["", ""]


def test_a_filter_of_each_partition_and_a_column_of_all_are_not_of_the_same_rows() -> None:
    evaluations = coalesced((0, 2), (3, 5), (1, 6), values=(50, 50, 10))
    evaluations = [each._replace(worker=number) for number, each in enumerate(evaluations)]
    found = count(evaluations, Use(several=True, narrowed=True))
    assert (sum(each.value for each in found.evaluations), bool(found.doubt)) == (110, True)


def test_samples_count_once_and_large_partitions_of_them_too() -> None:
    sampled = [*stage(1, 10, 50_000, 10, sampled_for=SAMPLE), *stage(2, 50_000, sampled_for=SAMPLE)]
    again = stage(3, 10, 50_000, 10)
    for use in (ONE, Use(places=2, repeats_samples=True), Use(known=False, repeats_samples=True)):
        assert counted(*sampled, *again, use=use) == 50_020
    # Else these may be stages below the one that samples, and others with as many rows.
    for unknown in (None, Use(places=2)):
        assert counted(*sampled, *again, use=unknown) == 150_040
    # What is cached is not evaluated again for the exchange.
    assert counted(*sampled) == 50_020
    sorted_twice = Use(places=2, repeats_samples=True)
    assert counted(*sampled, *again, use=sorted_twice, may_be_cached=True) == 150_040


def test_a_stage_below_one_that_samples_is_no_sample() -> None:
    """Without adaptive execution, both run in the job that samples."""
    below, sample = stage(1, 100, 100, sampled_for=SAMPLE), stage(2, 90, 0, 80, sampled_for=SAMPLE)
    assert counted(*below, *sample, *stage(3, 90, 0, 80)) == 200
    # Nothing is filtered out.
    same = stage(2, 100, 100, sampled_for=SAMPLE)
    assert counted(*below, *same, *stage(3, 100, 100)) == 200


def test_two_samples_of_one_exchange_need_two_evaluations_to_be_left_out() -> None:
    """Without adaptive execution, a broadcast may run in the scope of the exchange."""
    twice = Use(places=2, repeats_samples=True)
    broadcast, sample = stage(1, 5, 5, sampled_for=SAMPLE), stage(2, 5, 5, sampled_for=SAMPLE)
    assert counted(*broadcast, *sample, *stage(3, 5, 5), use=twice) == 20
    # Of the broadcast's partitions, only some are like those of the sample.
    larger = stage(1, 5, 5, 5, 5, sampled_for=SAMPLE)
    assert counted(*larger, *sample, *stage(3, 5, 5), use=twice) >= 30
    others = [*stage(4, 5, 5, sampled_for=OTHER_SAMPLE), *stage(5, 5, 5)]
    assert counted(*sample, *stage(3, 5, 5), *others, use=twice) == 20


def test_stages_that_run_again_count_once_if_there_is_one_place() -> None:
    first, again = stage(1, 5, 6, 7), [evaluated(6, stage=2, partition=1)]
    assert counted(*first, *again) == 18
    assert counted(*first, *stage(3, 5, 6, 7), use=Use(places=2)) == 36, "both places are evaluated"
    for use in (None, Use(copied=True), Use(places=2), Use(places=2, apart=True)):
        assert counted(*first, *again, use=use) == 24, "in doubt, more"


def test_a_condition_that_is_copied_to_the_other_side_counts_there_too() -> None:
    copied = Use(copied=True, narrowed=True)
    other = [evaluated(60, stage=2), evaluated(40, stage=2, partition=1)]
    assert counted(*FILTER, *other, use=replace(copied, apart=True)) == 350
    # One task may have both sides if the rows are partitioned alike, or if there is one partition.
    assert counted(*FILTER, use=copied) == 490


def test_both_sides_of_a_join_count() -> None:
    joined = Use(places=2, narrowed=True, apart=True)
    other_side = [each._replace(stage=2, task=9) for each in FILTER]
    assert counted(*FILTER, *other_side, use=joined) == 500
    in_one_task = count(FILTER, replace(joined, apart=False))
    assert sum(each.value for each in in_one_task.evaluations) == 490
    assert "more than once" in in_one_task.doubt


def test_a_cross_join_is_in_doubt_if_each_partition_looks_like_another_one() -> None:
    crossed = Use(copied=True, crossed=True)
    assert count(stage(1, 25, 30, 25, 30), crossed).doubt
    assert not count(stage(1, 25, 30, 25, 31), crossed).doubt


def test_each_partition_of_a_place_counts_once_in_whatever_stage() -> None:
    assert counted(*stage(1, 5), evaluated(6, stage=2, partition=1)) == 11
    assert counted() == 0
