"""Queries that look as if Spark repeats evaluations count never less than what happened once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.functions import col, pandas_udf, udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.spark.accumulators import Accumulator, ApproxCountDistinct, Max, Min, SetOf
from airflow_provider_sparkdeps.spark.session import Session

from ...support.counted import counting, keys, rows


def mapped(session: Session, count: Accumulator, start: int, end: int, partitions: int = 1) -> DataFrame:
    """Return a frame with `k` that has passed a function, which keeps how the rows are partitioned."""

    def added(batches: Any) -> Any:
        for batch in batches:
            count.add(len(batch))
            yield batch

    return session.spark.range(start, end, 1, partitions).withColumnRenamed("id", "k").mapInPandas(added, "k long")


def tens(count: Accumulator) -> Callable[..., Any]:
    """Return a function of whose results most are filtered out."""

    def tens(value: int) -> int:
        count.add(1)
        return value if value % 10 == 0 else -1

    return udf(tens, "long")


def grouped(session: Session, count: Accumulator, start: int, end: int) -> DataFrame:
    def size(values: pd.Series) -> int:
        count.add(len(values))
        return len(values)

    size.__annotations__ = {"values": pd.Series, "return": int}
    window = Window.partitionBy("g")
    frame = keys(session, start, end).withColumn("g", col("k") % 7)
    return frame.withColumn("x", pandas_udf(size, "long")("k").over(window))


def two_windows(session: Session, count: Accumulator) -> None:
    grouped(session, count, 0, 50).union(grouped(session, count, 50, 120)).collect()


def two_single_partitions(session: Session, count: Accumulator) -> None:
    mapped(session, count, 0, 50).union(mapped(session, count, 50, 100)).collect()


def cross_join_and_condition(session: Session, count: Accumulator) -> None:
    left = keys(session, 0, 100).withColumn("n", counting(count)("k"))
    right = keys(session, 50, 150).withColumnRenamed("k", "b")
    left.crossJoin(right).where("k = b and n >= 5").select("k").collect()


def function_in_a_view_of_sql_and_above(session: Session, count: Accumulator) -> None:
    session.spark.udf.register("in_a_view", counting(count))
    session.spark.sql(
        "CREATE OR REPLACE TEMP VIEW of_sql AS SELECT id AS k, in_a_view(id + 1000) AS n FROM range(0, 100, 1, 2)"
    )
    session.spark.sql("SELECT k, in_a_view(k) AS m FROM of_sql WHERE n >= 1005").collect()


def cached_without_a_column_that_a_filter_needs(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 120).withColumn("g", col("k") % 3).select("k", counting(count)("k").alias("n")).cache()
    for group in range(3):
        frame.filter(f"g = {group}").collect()


def cache_that_another_session_cleared(session: Session, count: Accumulator) -> None:
    cached = keys(session, 0, 100).withColumn("n", counting(count)("k")).cache()
    other = session.spark.newSession() if hasattr(session.spark, "newSession") else session.spark
    other.catalog.clearCache()
    cached.filter("k % 2 = 0").collect()
    cached.filter("k % 2 = 1").collect()


def persisted_nowhere(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 100).withColumn("n", counting(count)("k")).persist(StorageLevel.NONE)
    frame.filter("k % 2 = 0").collect()
    frame.filter("k % 2 = 1").collect()


def filter_above_a_join_with_few_rows(session: Session, count: Accumulator) -> None:
    joined = keys(session, 0, 100).join(keys(session, 90, 190).hint("merge"), "k")
    joined.withColumn("n", tens(count)("k")).filter("n >= 0").collect()


def filter_above_a_union_with_few_rows(session: Session, count: Accumulator) -> None:
    union = keys(session, 0, 50).repartition(3).union(keys(session, 50, 100).repartition(3))
    union.withColumn("n", tens(count)("k")).filter("n >= 0").collect()


def condition_that_is_copied_to_a_union(session: Session, count: Accumulator) -> None:
    union = keys(session, 100, 200).repartition(3).union(keys(session, 200, 300).repartition(3))
    left = keys(session, 0, 100).withColumn("n", counting(count)("k"))
    left.join(union, "k").filter("n >= 5").select("k").collect()


def explode_above_a_union(session: Session, count: Accumulator) -> None:
    def listed(value: int) -> list[int]:
        count.add(1)
        return [value] if value % 10 == 0 else []

    union = keys(session, 0, 50).repartition(3).union(keys(session, 50, 100).repartition(3))
    union.select(udf(listed, "array<long>")("k").alias("a")).select(F.explode("a")).collect()


def sorted_checkpoint_and_another_use(session: Session, count: Accumulator) -> None:
    lazy = rows(session, count, 100, 2).localCheckpoint(eager=False)
    rows(session, count, 100, 2, start=100).union(lazy.orderBy("n")).collect()


def sorted_cached_table_and_another_use(session: Session, count: Accumulator) -> None:
    rows(session, count, 100, 2).createOrReplaceTempView("cached_table")
    session.spark.catalog.cacheTable("cached_table")
    rows(session, count, 100, 2, start=100).union(session.spark.table("cached_table").orderBy("n")).collect()


def both_sides_in_one_task_after_a_sample(session: Session, count: Accumulator) -> None:
    mapped(session, count, 0, 4, 2).cache().collect()
    left, right = mapped(session, count, 100, 110), mapped(session, count, 100, 400)
    left.hint("merge").join(right, "k").repartitionByRange(3, "k").collect()


def view_of_tables_with_buckets(session: Session, count: Accumulator) -> None:
    for name, start in (("counted_left", 0), ("counted_right", 50)):
        frame = keys(session, start, start + 100)
        frame.write.mode("overwrite").bucketBy(2, "k").sortBy("k").saveAsTable(name)
    session.spark.sql(
        "CREATE OR REPLACE VIEW counted_view AS SELECT /*+ MERGE(l) */ l.k FROM counted_left l JOIN counted_right r "
        "ON l.k = r.k"
    )
    session.spark.table("counted_view").filter(counting(count)("k") >= 5).collect()


def shown_above_a_join(session: Session, count: Accumulator) -> None:
    """Spark runs the query when it plans it."""
    joined = keys(session, 0, 100).join(keys(session, 50, 150), "k", "full")
    joined.withColumn("n", counting(count)("k")).where("n < 200").show(1000)


def pivot_below_a_filter(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 20).join(keys(session, 0, 20), "k").withColumn("n", counting(count)("k"))
    frame.groupBy("k").pivot("n").count().where("k < 10").collect()


def two_sources(session: Session) -> DataFrame:
    first, second = (keys(session, start, start + 100).repartition(3, "k") for start in (0, 100))
    return first.withColumn("source", F.lit("A")).union(second.withColumn("source", F.lit("B")))


def conditions_that_differ_between_inputs(session: Session, count: Accumulator) -> None:
    function = counting(count)
    condition = F.when(col("source") == "A", function("k") >= 5).otherwise(function("k") < 180)
    two_sources(session).where(condition).collect()


def a_name_in_backticks(session: Session, count: Accumulator) -> None:
    session.spark.udf.register("in_backticks", counting(count))
    session.spark.sql(
        "SELECT /*+ MERGE(x) */ * FROM (SELECT id AS k, in_backticks(id) AS n FROM range(0, 100, 1, 2)) x "
        "JOIN (SELECT id AS k, `in_backticks`(id) AS m FROM range(50, 150, 1, 2)) y USING (k) WHERE n + m > 0"
    ).collect()


def names_with_brackets(session: Session, count: Accumulator) -> None:
    first, second = (
        session.spark.createDataFrame([(n,) for n in range(start, start + 100)], "`a)` long").repartition(3, "`a)`")
        for start in (0, 100)
    )
    first.union(second).where(counting(count)("`a)`") >= 5).collect()


def plan_with_a_hidden_place(session: Session, count: Accumulator) -> None:
    session.spark.conf.set("spark.sql.redaction.string.regex", r"\[[^\]]*ssn[^\]]*\]")
    first, second = (
        session.spark.createDataFrame([(n,) for n in range(start, start + 100)], f"{name} long").repartition(3, name)
        for start, name in ((0, "ssn"), (100, "x"))
    )
    first.union(second).where(counting(count)("ssn") >= 5).collect()


def shortened_plan(session: Session, count: Accumulator) -> None:
    session.spark.conf.set("spark.sql.maxPlanStringLength", "450")
    two_sources(session).where(counting(count)("k") >= 5).collect()


def filter_above_a_join_that_multiplies_rows(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 100).withColumn("g", col("k") % 7)
    tripled = session.spark.range(7).crossJoin(session.spark.range(3).toDF("j")).selectExpr("id AS g", "j")
    frame.join(F.broadcast(tripled), "g").withColumn("n", counting(count)("k")).where("n >= 5").collect()


def filter_above_rows_that_are_multiplied(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 100).select("k", F.explode(F.array(F.lit(1), F.lit(2), col("k"))).alias("e"))
    frame.withColumn("n", counting(count)("k")).where("n >= 5").collect()


def raw(count: Accumulator) -> Callable[[int], int]:
    def counted_by_name(value: int) -> int:
        count.add(1)
        return value

    return counted_by_name


def calls_by_other_spellings(session: Session, count: Accumulator) -> None:
    session.spark.udf.register("spelled", raw(count), "long")
    frame = keys(session, 0, 10).filter(F.call_function("spelled", col("k") + 100) > 0)
    frame.withColumn("a", F.call_function("SPELLED", col("k"))).collect()
    frame = keys(session, 20, 30).filter(F.call_udf("spelled", col("k") + 100) > 0)
    frame.withColumn("a", F.expr("`spelled`(k)")).collect()


def two_names_of_a_function(session: Session, count: Accumulator) -> None:
    function = udf(raw(count), "long")
    session.spark.udf.register("other_name", function)
    keys(session, 0, 10).filter("other_name(k + 100) > 0").withColumn("a", function("k")).collect()


def without_broadcasts(session: Session) -> None:
    for name in ("spark.sql.autoBroadcastJoinThreshold", "spark.sql.adaptive.autoBroadcastJoinThreshold"):
        session.spark.conf.set(name, "-1")


def union_below_a_product(session: Session, count: Accumulator) -> None:
    without_broadcasts(session)
    function = counting(count)
    first, second = (keys(session, start, start + 50).withColumn("y", function("k")) for start in (0, 50))
    first.union(second).crossJoin(keys(session, 200, 202).select(function("k").alias("z"))).collect()


def exchange_that_is_left_out(session: Session, count: Accumulator) -> None:
    """A limit tells that there are few rows, so that Spark makes a plan with fewer exchanges."""
    without_broadcasts(session)

    def size(values: pd.Series) -> int:
        count.add(len(values))
        return len(values)

    size.__annotations__ = {"values": pd.Series, "return": int}
    over = pandas_udf(size, "long")("k").over(Window.partitionBy("g"))
    first, second = (
        frame.withColumn("g", col("k") % 7).withColumn("x", over)
        for frame in (keys(session, 0, 100), keys(session, 1000, 1500).filter("k % 5 = 0"))
    )
    first.join(second.limit(300), "g", "full").collect()


def subquery_in_text(session: Session, count: Accumulator) -> None:
    frame = keys(session, 0, 10).filter(counting(count)("k") >= 0)
    frame.withColumn("m", F.expr("(SELECT max(id) FROM range(5, 105, 1, 2) WHERE id = k)")).collect()


def subquery_of_a_view_in_text(session: Session, count: Accumulator) -> None:
    keys(session, 5, 205).filter(counting(count)("k") >= 0).createOrReplaceTempView("in_text")
    frame = session.spark.range(1000, 1200, 1, 2).toDF("n")
    frame.filter("n <= (SELECT max(k) FROM in_text WHERE k = n)").collect()


def function_of_sql(session: Session, count: Accumulator) -> None:
    session.spark.sql(
        "CREATE OR REPLACE TEMPORARY FUNCTION looked_up(x BIGINT) RETURNS BIGINT "
        "RETURN (SELECT max(id) FROM range(5, 105, 1, 2) WHERE id = x)"
    )
    frame = keys(session, 0, 10).filter(counting(count)("k") >= 0)
    frame.withColumn("m", F.call_function("looked_up", col("k"))).collect()


def second(count: Accumulator) -> Any:
    """Return a function of two arguments that counts calls, and returns the second one."""

    def second_of_two(_: str, value: int) -> int:
        count.add(1)
        return value

    return udf(second_of_two, "long")


def text_that_looks_like_the_end_of_a_call(session: Session, count: Accumulator) -> None:
    function, text = second(count), F.lit(")#99 (")
    frame = session.spark.range(0, 10, 1, 1).select((function(text, col("id")) + 100).alias("id"))
    frame.select(function(text, col("id")).alias("n")).where("n >= 0").collect()


def text_that_looks_like_an_operator(session: Session, count: Accumulator) -> None:
    without_broadcasts(session)
    function = counting(count)
    first = session.spark.range(0, 40, 1, 1).select(function("id").alias("n"), F.lit("x\n:- Exchange y").alias("text"))
    other = session.spark.range(100, 110, 1, 1).select(function("id").alias("m"))
    first.where("n >= 0").crossJoin(other.where("m >= 0")).collect()


def filter_above_sliding_windows(session: Session, count: Accumulator) -> None:
    frame = session.spark.range(0, 10, 1, 2).withColumn("at", F.timestamp_seconds(col("id")))
    frame = frame.select("id", F.window("at", "10 seconds", "5 seconds").alias("w"), counting(count)("id").alias("n"))
    frame.where("n >= 0").collect()


# Query -> what it needs at least, and what its functions evaluate at most.
UNCERTAIN: dict[str, tuple[Callable[[Session, Accumulator], object], int, int]] = {
    "two single partitions in a task": (two_single_partitions, 100, 100),
    "two windows in a task": (two_windows, 120, 120),
    "a cross join and a condition": (cross_join_and_condition, 150, 200),
    "a function in a view of SQL, and above it": (function_in_a_view_of_sql_and_above, 195, 195),
    "a cached frame without a column that a filter needs": (cached_without_a_column_that_a_filter_needs, 120, 120),
    "a cache that another session cleared": (cache_that_another_session_cleared, 100, 100),
    "persisted nowhere": (persisted_nowhere, 100, 100),
    "a filter above a join, few rows": (filter_above_a_join_with_few_rows, 190, 201),
    "a filter above a union, few rows": (filter_above_a_union_with_few_rows, 100, 110),
    "a condition that is copied to a union": (condition_that_is_copied_to_a_union, 300, 300),
    "explode above a union": (explode_above_a_union, 100, 110),
    "a sorted lazy checkpoint and another use": (sorted_checkpoint_and_another_use, 200, 300),
    "a sorted cached table and another use": (sorted_cached_table_and_another_use, 200, 300),
    "a view of tables with buckets": (view_of_tables_with_buckets, 200, 300),
    "shown above a join": (shown_above_a_join, 150, 400),
    "a pivot below a filter": (pivot_below_a_filter, 20, 60),
    "conditions that differ between inputs": (conditions_that_differ_between_inputs, 200, 400),
    "a name in backticks": (a_name_in_backticks, 200, 400),
    "names with brackets": (names_with_brackets, 200, 400),
    "a plan with a hidden place": (plan_with_a_hidden_place, 200, 400),
    "a shortened plan": (shortened_plan, 200, 400),
    "a filter above a join that multiplies rows": (filter_above_a_join_that_multiplies_rows, 285, 400),
    "calls by other spellings": (calls_by_other_spellings, 40, 60),
    "two names of a function": (two_names_of_a_function, 20, 30),
    "a union below a product": (union_below_a_product, 102, 400),
    "an exchange that is left out": (exchange_that_is_left_out, 200, 200),
    "a subquery in text": (subquery_in_text, 105, 120),
    "a subquery of a view in text": (subquery_of_a_view_in_text, 400, 400),
    "a function of SQL": (function_of_sql, 105, 120),
    "a filter above rows that are multiplied": (filter_above_rows_that_are_multiplied, 285, 400),
    "both sides in one task after a sample": (both_sides_in_one_task_after_a_sample, 314, 628),
    "text that looks like the end of a call": (text_that_looks_like_the_end_of_a_call, 20, 40),
    "text that looks like an operator": (text_that_looks_like_an_operator, 50, 100),
    "a filter above sliding windows": (filter_above_sliding_windows, 20, 30),
}

# A session that has seen these is more careful with all later queries.
REMEMBERED = frozenset(
    (
        *(function_in_a_view_of_sql_and_above, view_of_tables_with_buckets, function_of_sql),
        *(text_that_looks_like_the_end_of_a_call, text_that_looks_like_an_operator),
    )
)


@pytest.mark.parametrize("adaptive", ["true", pytest.param("false", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", UNCERTAIN)
def test_a_query_never_counts_less_than_it_needs(request: pytest.FixtureRequest, name: str, adaptive: str) -> None:
    query, least, most = UNCERTAIN[name]
    session: Session = request.getfixturevalue("session" if query in REMEMBERED else "shared")
    session.spark.conf.set("spark.sql.adaptive.enabled", adaptive)
    session.spark.conf.set("spark.sql.shuffle.partitions", "3")
    count = session.accumulator(f"count_{len(session.accumulator_values)}")
    query(session, count)
    assert least <= count.value <= most


def test_a_stage_below_a_sample_is_not_taken_for_it(shared: Session, count: Accumulator) -> None:
    """Both run in one job without adaptive execution. A subquery evaluates as many rows in as many partitions."""
    for name, value in (("adaptive.enabled", "false"), ("shuffle.partitions", "2")):
        shared.spark.conf.set(f"spark.sql.{name}", value)
    function = counting(count)
    first, second = (shared.spark.range(start, start + 40, 1, 2) for start in (0, 100))
    grouped = first.groupBy("id").agg(F.max(function("id")).alias("n"))
    lowest = second.select(F.min(function("id"))).scalar()
    grouped.where(col("n") >= lowest - 200).orderBy("n").collect()
    assert count.value == 80
    both = first.select(function("id").alias("n")).union(second.select(function("id").alias("n")))
    both.orderBy("n").collect()
    assert count.value == 160, "the sample is evaluated again"
    small = second.select(function("id").alias("m"))
    first.select(function("id").alias("n")).crossJoin(F.broadcast(small)).repartition(3).collect()
    assert count.value == 240, "the broadcast runs while the exchange is prepared"


def test_a_subquery_below_an_exchange_is_not_taken_for_a_sample(shared: Session, count: Accumulator) -> None:
    """It runs while the exchange is prepared, without adaptive execution at least."""
    shared.spark.conf.set("spark.sql.adaptive.enabled", "false")
    function = counting(count)
    lowest = shared.spark.range(100, 140, 1, 1).select(F.min(function("id"))).scalar()
    frame = shared.spark.range(0, 80, 1, 2).where(col("id") >= lowest - 200)
    frame.select(function("id").alias("n")).repartition(3).collect()
    assert count.value == 120


def test_only_a_value_that_repetitions_change_is_said_to_be_in_doubt(
    shared: Session, count: Accumulator, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {"largest": Max(), "smallest": Min(), "all": SetOf(), "about": ApproxCountDistinct()}
    others = [shared.accumulator(name, kind) for name, kind in kinds.items()]

    def compared(value: int) -> int:
        count.add(1)
        for each in others:
            each.add(value)
        return value

    shared.spark.udf.register("compared", compared, "long")
    table = "WITH x AS (SELECT compared(id) AS n FROM range(0, 1000, 1, 4))"
    shared.spark.sql(f"{table} SELECT n FROM x WHERE n >= 5").collect()
    assert (count.value, others[0].value) == (1995, 999)
    (message,) = [each.getMessage() for each in caplog.records if "may be too high" in each.getMessage()]
    assert message.startswith(f"Accumulator '{count.name}' may be too high")


@pytest.mark.parametrize(
    "action",
    [
        lambda frame: frame.write.format("jdbc").option("url", "jdbc:none:x").save(),
        lambda frame: frame.write.insertInto("missing"),
        lambda frame: frame.writeTo("missing").append(),
    ],
    ids=["database", "table", "table of a catalog"],
)
def test_a_write_that_spark_may_coalesce_is_known_to_be_so(
    session: Session, action: Callable[[DataFrame], object]
) -> None:
    """A database that two executors can write to is not available here."""
    count = session.accumulator("count")
    with pytest.raises(PySparkException):
        action(rows(session, count))
    (use,) = [use for _, uses in count._collector._sent.values() for use in uses.values()]
    assert use.several


def test_a_write_of_files_keeps_its_partitions(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")
    rows(session, count).write.parquet(str(tmp_path / "out"))
    (use,) = [use for _, uses in count._collector._sent.values() for use in uses.values()]
    assert not use.several
