"""What Spark's explanation of a query says about the places of a function."""

from __future__ import annotations

import pytest

from airflow_provider_sparkdeps.spark.accumulators.plan import Plan
from airflow_provider_sparkdeps.spark.accumulators.uses import Use

FILTER = """
:- Project [id#0L, pythonUDF0#9L AS n#2L]
:  +- BatchEvalPython [f(id#0L)#1L], [pythonUDF0#9L]
:     +- *(1) Filter (pythonUDF0#8L > 5)
:        +- BatchEvalPython [f(id#0L)#1L], [pythonUDF0#8L]
:           +- *(1) Range (0, 100, step=1, splits=4)
"""
RANGE = """
+- Range (0, 300, step=1, splits=2)
"""


def plan(*parts: str, root: str = "AdaptiveSparkPlan isFinalPlan=false") -> Plan:
    return Plan("\n".join(["== Physical Plan ==", root, *(part.strip("\n") for part in parts)]) + "\n\n")


def join(left: str = FILTER, right: str = RANGE) -> Plan:
    return plan(left, right, root="*(2) BroadcastHashJoin [n#2L], [m#7L], Inner, BuildRight, false, false")


def test_places_on_one_path_are_of_the_same_rows() -> None:
    assert join().evaluates_once(("f",))
    # A place alone, also twice with a function of its result.
    assert join(FILTER.replace("f(id#0L)#1L", "g(f(id#0L)#1L)#3L")).evaluates_once(("g",))
    assert join(FILTER.replace("f(id#0L)#1L", "f((id#0L + abs(3)))#1L")).evaluates_once(("f",))
    assert plan("+- MapInPandas f(k#1L)#2, [k#3L], false", "   +- Range (0, 4)").evaluates_once(("f",))
    assert join(FILTER.replace("f(", "<lambda>(")).evaluates_once(("<lambda>",))


COPIED = RANGE.replace("Range", "BatchEvalPython [f(m#7L)#1L], [pythonUDF0#8L]\n   +- Range")


@pytest.mark.parametrize(
    ("found", "function"),
    [
        (join(right=COPIED), "f"),
        (join(right=COPIED.replace("#1L", "#5L").replace("f(m", "f(f(m")), "f"),
        (join(FILTER.replace("*(1) Filter", "Generate")), "f"),
        (join(FILTER.replace("*(1) Filter", "Coalesce 1")), "f"),
        (join(FILTER.replace("f(id#0L)#1L", "f(id#0L, a)b)#1L")), "f"),
        (join(FILTER.replace("f(id#0L)#1L]", "f(id#0L)#1L, ... 3 more fields]")), "f"),
        (join(FILTER.replace("Filter (", "Filter (a\nb")), "f"),
        (join(FILTER.replace(":- Project", ":- == Final Plan ==\n   Project")), "f"),
        (join(), "g"),
        (join(), "id"),
        (join(), ""),
        (join(FILTER.replace("Range (", "InMemoryTableScan [id#0L], (")), "f"),
        (join(FILTER.replace("BatchEvalPython [f(id#0L)#1L]", "BatchEvalPython *********(redacted)", 1)), "f"),
        (join(FILTER.replace("f(id#0L)#1L", "f(a)#0L)#1L")), "f"),
        (Plan(""), "f"),
        (Plan("an error"), "f"),
        (plan(FILTER, RANGE.replace("splits=2)", "sp... 120 more characters"), root="Union"), "f"),
    ],
    ids=range(17),
)
def test_places_are_not_known_to_be_of_the_same_rows(found: Plan, function: str) -> None:
    assert not found.evaluates_once((function,))


def test_another_function_of_the_name_is_in_doubt() -> None:
    other = COPIED.replace("#1L", "#5L").replace("+- Batch", "+- BroadcastExchange x\n   +- Batch")
    assert not join(right=other).evaluates_once(("f",)), "conditions may differ between the inputs"
    assert join(right=other.replace("\n   +- Range", "\n      +- Range")).keeps_apart(("f",))


def test_a_subquery_is_a_branch_of_its_own() -> None:
    filter_with_subquery = """
+- BatchEvalPython [f(id#0L)#1L], [pythonUDF0#9L]
   +- Filter (id#0L <= Subquery subquery#5, [id=#31])
      :  +- Subquery subquery#5, [id=#31]
      :     +- Project [pythonUDF0#7L AS m#6L]
      :        +- BatchEvalPython [g(id#4L)#3L], [pythonUDF0#7L]
      :           +- Range (0, 7, step=1, splits=4)
      +- BatchEvalPython [f(id#0L)#1L], [pythonUDF0#8L]
         +- Range (0, 400, step=1, splits=4)
"""
    assert plan(filter_with_subquery).evaluates_once(("f",))
    assert plan(filter_with_subquery).evaluates_once(("g",))
    assert not plan(filter_with_subquery.replace("g(id#4L)#3L", "f(id#4L)#1L")).evaluates_once(("f",))


def test_a_plan_tells_whether_tasks_compute_several_partitions() -> None:
    assert not join().coalesces
    assert join(FILTER.replace("*(1) Filter", "Coalesce 1")).coalesces
    assert join(FILTER.replace("*(1) Filter", "GroupPartitions")).coalesces
    assert Plan("").coalesces
    assert not join().crosses
    assert join(FILTER.replace("*(1) Filter", "CartesianProduct")).crosses
    assert Plan("").crosses


def test_a_plan_tells_whether_samples_are_evaluated_again() -> None:
    exchange, sort = "Exchange hashpartitioning(id#0L, 2), ENSURE_REQUIREMENTS", "Exchange rangepartitioning(n#2L, 2)"
    leaf = "BatchEvalPython [f(id#0L)#1L], [x]", "Range (0, 9, step=1, splits=2)"

    def nested(*operators: str, root: str = "Sort [n#2L], true, 0") -> Plan:
        lines = [f"{'   ' * depth}+- {operator}" for depth, operator in enumerate((*operators, *leaf))]
        return plan(*lines, root=root)

    assert nested(sort).repeats_samples(("f",))
    assert nested(exchange).repeats_samples(("f",)), "nothing is sampled"
    assert nested("Project [n#2L]").repeats_samples(("f",)), "nothing is sampled"
    assert not nested(sort, exchange).repeats_samples(("f",)), "the stage below runs in the job that samples"
    assert not nested(sort, "BroadcastExchange x").repeats_samples(("f",))
    assert not nested(sort, "Project [n#2L]", sort).repeats_samples(("f",))
    assert not nested(sort).repeats_samples(()), "not all places are known"
    assert not nested(sort).repeats_samples(("g",))
    reused = plan(f":- {leaf[0]}", f":  +- {leaf[1]}", "+- ReusedExchange [n#2L], Exchange x", root="Union")
    assert not reused.repeats_samples(("f",))
    adaptive = "AdaptiveSparkPlan isFinalPlan=false"
    assert nested(sort, exchange, root=adaptive).repeats_samples(()), "the stage below has run before"
    # Subqueries and broadcasts may run while an exchange is prepared.
    subquery = f"+- Filter (n#2L > Subquery x)\n   :  +- Subquery x\n   +- {leaf[0]}\n      +- {leaf[1]}"
    assert not plan(subquery, root=adaptive).repeats_samples(("f",))
    assert not plan(subquery.replace("Subquery", "ReusedSubquery"), root=adaptive).repeats_samples(("f",))
    broadcast = f":- {leaf[0]}\n:  +- {leaf[1]}\n+- BroadcastExchange x\n   +- {leaf[1]}"
    assert not plan(broadcast, root="BroadcastHashJoin").repeats_samples(("f",))
    assert not Plan("").repeats_samples(("f",))


def test_the_plan_of_a_stream_is_not_that_of_its_batches() -> None:
    other = COPIED.replace("#1L", "#5L").replace("+- Batch", "+- BroadcastExchange x\n   +- Batch")
    right = other.replace("\n   +- Range", "\n      +- Range")
    assert join(right=right).keeps_apart(("f",))
    stream = join(FILTER.replace("Range (0, 100, step=1, splits=4)", "StreamingRelation x"), right)
    assert not stream.keeps_apart(("f",))
    assert not stream.repeats_samples(("f",))


def indented(text: str, by: str = "   ") -> str:
    return "\n".join(by + line for line in text.strip("\n").splitlines())


def test_sides_of_a_join_are_apart_if_one_is_exchanged() -> None:
    other = COPIED.replace("#1L", "#5L").replace("+- Batch", "+- BroadcastExchange x\n   +- Batch")
    exchanged = other.replace("\n   +- Range", "\n      +- Range")
    assert join(right=exchanged).keeps_apart(("f",))
    assert not join(right=exchanged).evaluates_once(("g",))
    assert not join(right=COPIED.replace("#1L", "#5L")).keeps_apart(("f",)), "partitioned alike"
    # The same rows on each side.
    assert join().keeps_apart(("f",))
    assert not join(FILTER.replace("*(1) Filter", "Generate")).keeps_apart(("f",))
    # Two functions on one path.
    assert not join(FILTER.replace("f(id#0L)#1L], [pythonUDF0#9L]", "f(id#0L)#6L], [pythonUDF0#9L]")).keeps_apart(
        ("f",)
    )
    assert not Plan("").keeps_apart(("f",))


CACHED = """
:- BatchEvalPython [f(id#0L)#1L], [pythonUDF0#9L]
:  +- Range (0, 100, step=1, splits=1)
+- Exchange hashpartitioning(id#3L, 3), ENSURE_REQUIREMENTS
   +- Union
      :- BatchEvalPython [f(id#3L)#4L], [pythonUDF0#8L]
      :  +- Range (0, 300, step=1, splits=2)
      +- InMemoryTableScan [id#5L]
         +- InMemoryRelation [id#5L], StorageLevel(disk, memory, deserialized, 1 replicas)
            +- *(1) Range (0, 3, step=1, splits=2)
"""


def test_exchanges_whose_input_runs_first_may_be_left_out() -> None:
    assert plan(CACHED, root="Union").keeps_apart(("f",))
    assert not plan("+- Union", indented(CACHED)).keeps_apart(("f",))
    # What is cached has an adaptive plan.
    within = CACHED.replace("*(1) Range", "AdaptiveSparkPlan isFinalPlan=false\n               +- Range")
    assert not plan(within, root="Union").keeps_apart(("f",))


@pytest.mark.parametrize(
    ("left", "right", "is_apart"),
    [
        ("Range (0, 9, step=1, splits=2)", "Range (0, 9, step=1, splits=12)", True),
        ("Range (0, 9, step=1, splits=2)", "FileScan parquet [id#0L] Batched: true, DataFilters: []", True),
        ("Range (0, 9, step=1, splits=2)", "Range (0, 9, step=1, splits=1)", False),
        ("Range (0, 9, step=1, splits=2)", "Exchange hashpartitioning(k#3L, 3), ENSURE_REQUIREMENTS", False),
        ("Range (0, 9, step=1, splits=2)", "FileScan parquet t[id#0L] Batched: true, Bucketed: true", False),
        ("Range (0, 9, step=1, splits=2)", "LocalTableScan [id#0L]", False),
    ],
)
def test_sides_of_a_union_are_apart_if_they_are_not_partitioned_alike(left: str, right: str, is_apart: bool) -> None:
    sides = [f"BatchEvalPython [f(k#{n}L)#{n}L], [x]\n   +- {side}" for n, side in enumerate((left, right))]
    first, second = f":- {sides[0]}".replace("\n   ", "\n:  "), f"+- {sides[1]}"
    union = plan(first, second, root="Union")
    assert union.keeps_apart(("f",)) == is_apart
    use = Use(several=True, functions=frozenset(("f",)))
    assert not use.with_plan(union).apart, "a write may coalesce"
    coalesced = plan(indented(first), indented(second), root="Coalesce 1\n+- Union")
    assert coalesced.coalesces
    assert not coalesced.keeps_apart(("f",))
