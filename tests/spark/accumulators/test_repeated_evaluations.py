"""Queries in which Spark repeats, splits, moves or shares evaluations count what happened once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark import StorageLevel
from pyspark.errors import PySparkException, StreamingQueryException
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.functions import col, pandas_udf, udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import open_session


def counting(count: Accumulator) -> Callable[..., Any]:
    def counted(value: int) -> int:
        count.add(1)
        return value

    return udf(counted, "long")


def rows(session: Session, count: Accumulator, number: int = 1000, partitions: int = 4, *, start: int = 0) -> DataFrame:
    return session.spark.range(start, start + number, 1, partitions).select(counting(count)("id").alias("n"))


def keys(session: Session, start: int, end: int) -> DataFrame:
    return session.spark.range(start, end, 1, 2).withColumnRenamed("id", "k")


def write(frame: DataFrame) -> None:
    frame.write.format("noop").mode("append").save()


def map_then_coalesce(session: Session, count: Accumulator) -> None:
    def added(batches: Any) -> Any:
        for batch in batches:
            count.add(len(batch))
            yield batch

    session.spark.range(0, 1000, 1, 4).mapInPandas(added, "id long").coalesce(1).collect()


def used_twice_in_sql(session: Session, count: Accumulator) -> None:
    text = "SELECT * FROM {d} x JOIN (SELECT n + 1 AS m FROM {d}) y ON x.n = y.m"
    session.spark.sql(text, d=rows(session, count)).collect()


def checkpoint_and_another_use(session: Session, count: Accumulator) -> None:
    lazy = rows(session, count).localCheckpoint(eager=False)
    lazy.union(rows(session, count)).collect()


def checkpoint_then_coalesce_and_another_use(session: Session, count: Accumulator) -> None:
    eager = rows(session, count).localCheckpoint()
    eager.coalesce(1).collect()
    eager.union(rows(session, count)).collect()


def batches_and_a_filter(session: Session, count: Accumulator) -> None:
    def added(values: pd.Series) -> pd.Series:
        count.add(len(values))
        return values

    added.__annotations__ = {"values": pd.Series, "return": pd.Series}
    frame = session.spark.range(0, 30_200, 1, 2).select(pandas_udf(added, "long")("id").alias("n"))
    frame.filter("n > 4313").collect()


def filter_on_a_join_key(session: Session, count: Accumulator) -> None:
    few = session.spark.range(0, 1000, 1, 4).select(col("id").alias("k"))
    many = session.spark.range(0, 4000, 1, 4).select(col("id").alias("k"), F.lit(1).alias("z"))
    few.filter(counting(count)("k") >= 0).join(many, "k").collect()


def sort_of_one_large_partition(session: Session, count: Accumulator) -> None:
    key = F.when(col("id") < 50_000, 0).otherwise(1 + col("id") % 9).alias("k")
    skewed = session.spark.range(0, 51_000, 1, 1).select(key, "id").repartition(10, "k")
    skewed.select(counting(count)("id").alias("n")).orderBy("n").collect()


def cached_and_joined_with_itself(session: Session, count: Accumulator) -> None:
    cached = rows(session, count).cache()
    cached.collect()
    cached.join(cached.select((col("n") + 1).alias("m")), col("n") == col("m")).collect()


def cached_on_the_right_of_another_use(session: Session, count: Accumulator) -> None:
    cached = rows(session, count).cache()
    cached.collect()
    rows(session, count, 500).union(cached).collect()


def joined_with_itself(session: Session, count: Accumulator) -> None:
    frame = rows(session, count)
    frame.hint("merge").join(frame.select((col("n") + 1).alias("m")), col("n") == col("m")).collect()


def filter_and_column(session: Session, count: Accumulator) -> None:
    counted = counting(count)
    session.spark.range(0, 1000, 1, 4).filter(counted("id") > 10).select(counted(col("id") + 1)).collect()


def two_columns_and_a_filter(session: Session, count: Accumulator) -> None:
    counted = counting(count)
    frame = session.spark.range(0, 1000, 1, 4).select(counted("id").alias("x"), counted(col("id") + 1).alias("y"))
    frame.filter("x > 10").collect()


def filter_above_a_union_of_shuffles(session: Session, count: Accumulator) -> None:
    union = keys(session, 0, 50).repartition(3).union(keys(session, 50, 100).repartition(3))
    union.filter(counting(count)("k") >= 0).collect()


def filter_above_a_join(session: Session, count: Accumulator) -> None:
    keys(session, 0, 100).join(keys(session, 50, 150), "k", "leftsemi").filter(counting(count)("k") >= 5).collect()


def join_on_both_sides_function(session: Session, count: Accumulator) -> None:
    counted, left, right = counting(count), keys(session, 0, 100), keys(session, 50, 150)
    left.join(right, counted(left["k"]) == counted(right["k"])).collect()


def view_of_one_name_with_other_rows(session: Session, count: Accumulator) -> None:
    for day in range(3):
        keys(session, day * 100, day * 100 + 20).createOrReplaceTempView("inputs")
        session.spark.table("inputs").withColumn("n", counting(count)("k")).cache().collect()


def cache_that_was_cleared(session: Session, count: Accumulator) -> None:
    cached = rows(session, count, 100, 2).cache()
    session.spark.catalog.clearCache()
    cached.filter("n % 2 = 0").collect()
    cached.filter("n % 2 = 1").collect()


def view_of_a_frame_that_is_no_longer_cached(session: Session, count: Accumulator) -> None:
    cached = keys(session, 0, 40).withColumn("n", counting(count)("k")).cache()
    cached.createOrReplaceTempView("was_cached")
    cached.unpersist()
    for rest in (0, 1):
        session.spark.table("was_cached").filter(f"k % 2 = {rest}").collect()


def filter_above_a_table(session: Session, count: Accumulator) -> None:
    session.spark.range(0, 1000, 1, 4).write.mode("overwrite").saveAsTable("counted_numbers")
    session.spark.table("counted_numbers").select(counting(count)("id").alias("n")).filter("n > 10").collect()


def with_key(session: Session, count: Accumulator) -> DataFrame:
    return session.spark.range(0, 1000, 1, 4).withColumn("n", counting(count)("id"))


def filter_below_a_join_on_the_result(session: Session, count: Accumulator) -> None:
    frame = with_key(session, count).filter("n % 7 < 5")
    frame.join(session.spark.range(300).withColumnRenamed("id", "n"), "n").collect()


def filter_above_an_intersection(session: Session, count: Accumulator) -> None:
    other = session.spark.range(0, 300).selectExpr("id", "id AS n")
    write(with_key(session, count).intersect(other).filter("n % 7 < 5"))


def filter_above_a_subquery(session: Session, count: Accumulator) -> None:
    highest = session.spark.range(2000).select(F.max("id"))
    with_key(session, count).where(col("id") <= highest.scalar()).filter("n % 7 < 5").collect()


def filter_on_a_registered_function(session: Session, count: Accumulator) -> None:
    session.spark.udf.register("counted_here", counting(count))
    session.spark.range(0, 1000, 1, 4).createOrReplaceTempView("counted_rows")
    session.spark.sql("SELECT id, counted_here(id) AS m FROM counted_rows").filter("m % 7 < 5").collect()


def condition_below_an_exchange_and_a_sort(session: Session, count: Accumulator) -> None:
    # Without adaptive execution, Spark runs the stage of the exchange in the job that samples.
    session.spark.conf.set("spark.sql.adaptive.enabled", "false")
    groups = keys(session, 0, 1000).groupBy("k").agg(F.max("k").alias("m"))
    groups.withColumn("n", counting(count)("k")).filter("n % 7 < 5").orderBy("m").collect()


# What an adversary found: queries of which some evaluations were left out that are of other rows.


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


# Query -> what its plan evaluates once.
QUERIES: dict[str, tuple[Callable[[Session, Accumulator], object], int]] = {
    "coalesce": (lambda session, count: rows(session, count).coalesce(1).collect(), 1000),
    "coalesce and write": (lambda session, count: write(rows(session, count).coalesce(2)), 1000),
    "mapInPandas, then coalesce": (map_then_coalesce, 1000),
    "a DataFrame twice in SQL": (used_twice_in_sql, 2000),
    "a lazy checkpoint and another use": (checkpoint_and_another_use, 2000),
    "a checkpoint, then coalesce, and another use": (checkpoint_then_coalesce_and_another_use, 2000),
    "batches and a filter": (batches_and_a_filter, 30_200),
    "a filter on a join key": (filter_on_a_join_key, 5000),
    "a sort of one large partition": (sort_of_one_large_partition, 51_000),
    "cached, joined with itself": (cached_and_joined_with_itself, 1000),
    "cached, on the right of another use": (cached_on_the_right_of_another_use, 1500),
    "joined with itself": (joined_with_itself, 2000),
    "a filter and a column": (filter_and_column, 1989),
    "two columns and a filter": (two_columns_and_a_filter, 1989),
    "a filter above a union of shuffles": (filter_above_a_union_of_shuffles, 100),
    "a join on a function of both sides": (join_on_both_sides_function, 200),
    "a view of one name with other rows": (view_of_one_name_with_other_rows, 60),
    "a cache that was cleared": (cache_that_was_cleared, 200),
    "a view of a frame that is no longer cached": (view_of_a_frame_that_is_no_longer_cached, 40),
    "a filter above a table": (filter_above_a_table, 1000),
    "a filter below a join on the result": (filter_below_a_join_on_the_result, 1000),
    "a filter above an intersection": (filter_above_an_intersection, 1000),
    "a filter above a subquery": (filter_above_a_subquery, 1000),
    "a filter on a registered function": (filter_on_a_registered_function, 1000),
    "a condition below an exchange, and a sort": (condition_below_an_exchange_and_a_sort, 1000),
    "a union and a filter": (
        lambda session, count: rows(session, count).filter("n > 10").union(rows(session, count)).collect(),
        2000,
    ),
}


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Session]:
    with open_session(server) as session:
        session.spark.conf.set("spark.sql.shuffle.partitions", "3")
        yield session


@pytest.mark.parametrize("adaptive", ["true", pytest.param("false", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_counts_what_happened_once(shared: Session, name: str, adaptive: str) -> None:
    shared.spark.conf.set("spark.sql.adaptive.enabled", adaptive)
    query, expected = QUERIES[name]
    count = shared.accumulator(f"count_{[*QUERIES].index(name)}_{adaptive}")
    query(shared, count)
    assert count.value == expected
    shared.spark.catalog.clearCache()


@pytest.mark.parametrize("adaptive", ["true", pytest.param("false", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", UNCERTAIN)
def test_a_query_never_counts_less_than_it_needs(session: Session, name: str, adaptive: str) -> None:
    session.spark.conf.set("spark.sql.adaptive.enabled", adaptive)
    session.spark.conf.set("spark.sql.shuffle.partitions", "3")
    query, least, most = UNCERTAIN[name]
    count = session.accumulator("count")
    query(session, count)
    assert least <= count.value <= most
    session.spark.catalog.clearCache()


def test_a_stage_below_a_sample_is_not_taken_for_it(session: Session) -> None:
    """Both run in one job without adaptive execution. A subquery evaluates as many rows in as many partitions."""
    for name, value in (("adaptive.enabled", "false"), ("shuffle.partitions", "2")):
        session.spark.conf.set(f"spark.sql.{name}", value)
    count = session.accumulator("count")
    function = counting(count)
    first, second = (session.spark.range(start, start + 40, 1, 2) for start in (0, 100))
    grouped = first.groupBy("id").agg(F.max(function("id")).alias("n"))
    lowest = second.select(F.min(function("id"))).scalar()
    grouped.where(col("n") >= lowest - 200).orderBy("n").collect()
    assert count.value == 80
    both = first.select(function("id").alias("n")).union(second.select(function("id").alias("n")))
    both.orderBy("n").collect()
    assert count.value == 160, "the sample is evaluated again"


@pytest.mark.parametrize(
    "action",
    [
        lambda frame: frame.write.format("jdbc").option("NumPartitions", 1).option("url", "jdbc:none:x").save(),
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


def test_a_condition_that_is_copied_counts_all_rows(session: Session) -> None:
    """Rows of both sides, of which 25 are on both: at least 75, and not more than all evaluations."""
    count = session.accumulator("count")
    filter_above_a_join(session, count)
    assert 150 <= count.value <= 200


def test_a_plan_of_many_levels_can_be_read(session: Session) -> None:
    count = session.accumulator("count")
    frame = session.spark.range(3)
    for number in range(100):
        frame = frame.withColumn(f"c{number}", F.lit(number))
    frame.select(counting(count)("id")).collect()
    assert count.value == 3
    joined = session.spark.range(3).withColumn("n", counting(count)("id")).join(session.spark.range(3), "id")
    for number in range(60):
        joined = joined.filter(f"id >= {-number}")
    joined.collect()
    assert count.value == 6


def test_tags_of_users_are_no_operations(session: Session) -> None:
    count = session.accumulator("count")
    for number in range(6):
        session.spark.addTag(f"t{number}_Operation_5")
    rows(session, count, 10).collect()
    session.spark.clearTags()
    assert count.value == 10


def test_a_filter_in_a_stream_counts_each_row_once(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")
    session.spark.range(0, 400, 1, 4).write.parquet(str(tmp_path / "in"))
    stream = session.spark.readStream.schema("id long").option("maxFilesPerTrigger", 3).parquet(str(tmp_path / "in"))
    kept = stream.select(counting(count)("id").alias("n")).where("n % 2 = 0")
    writer = kept.writeStream.format("noop").option("checkpointLocation", str(tmp_path / "log"))
    assert writer.trigger(availableNow=True).start().awaitTermination(240)
    session.spark.range(1).collect()  # receives the updates
    assert count.value == 400


def test_what_foreach_batch_writes_of_a_stream_is_counted(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")
    session.spark.range(10).write.parquet(str(tmp_path / "in"))

    def write_batch(frame: DataFrame, number: int) -> None:
        frame.write.format("noop").mode("append").save()

    stream = session.spark.readStream.schema("id long").parquet(str(tmp_path / "in"))
    writer = stream.select(counting(count)("id")).writeStream.foreachBatch(write_batch)
    assert writer.trigger(availableNow=True).start().awaitTermination(240)
    session.spark.range(1).collect()  # receives the updates
    assert count.value == 10


def test_a_use_in_foreach_batch_is_refused(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")
    session.spark.range(10).write.parquet(str(tmp_path / "in"))

    def write_batch(frame: DataFrame, number: int) -> None:
        write(frame.select(udf(lambda value: count.add(1), "long")("id")))

    stream = session.spark.readStream.schema("id long").parquet(str(tmp_path / "in")).writeStream
    query = stream.foreachBatch(write_batch).trigger(availableNow=True).start()
    with pytest.raises(StreamingQueryException, match="Accumulator 'count' can't be added to here"):
        query.awaitTermination(240)


def test_spark_caches_as_it_does_without_accumulators(session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    count = session.accumulator("count")

    def function(value: int) -> int:
        count.add(1)
        return value

    base = session.spark.range(10)
    base.select(udf(function, "long")("id")).cache().collect()
    frame = base.select(udf(function, "long")("id").alias("n"))
    frame.explain()
    assert "InMemoryTableScan" in capsys.readouterr().out
    assert frame.sameSemantics(frame)
    assert frame.sameSemantics(base.select(udf(function, "long")("id").alias("m")))
    assert not frame.sameSemantics(base.select(udf(function, "long")(col("id") + 1)))
    frame.collect()
    assert count.value == 10
