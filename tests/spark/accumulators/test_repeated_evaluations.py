"""Queries in which Spark repeats, splits, moves or shares evaluations count what happened once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.functions import col, pandas_udf, udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.session import Session

from ...support.counted import counting, keys, rows


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


def checkpoint_of_what_would_be_in_doubt(session: Session, count: Accumulator) -> None:
    """The remedy that docs/accumulators.md names."""
    frame = rows(session, count).localCheckpoint()
    session.spark.sql("WITH x AS (SELECT * FROM {d}) SELECT * FROM x WHERE n % 7 < 5", d=frame).collect()


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


def union_with_some_rows_again(session: Session, count: Accumulator) -> None:
    rows(session, count).union(rows(session, count, 500)).collect()


def cached_and_filtered(session: Session, count: Accumulator) -> None:
    cached = rows(session, count).cache()
    cached.collect()
    cached.filter("n >= 500").collect()


def cached_with_other_settings(session: Session, count: Accumulator) -> None:
    cached = session.spark.range(0, 100, 1, 2).select((counting(count)("id") + 1).alias("n")).cache()
    cached.collect()
    session.spark.conf.set("spark.sql.ansi.enabled", "false")
    cached.collect()


def view_in_two_queries(session: Session, count: Accumulator) -> None:
    rows(session, count).createOrReplaceTempView("counted")
    for _ in range(2):
        session.spark.sql("SELECT * FROM counted WHERE n > 10").collect()


def sort_on_a_registered_function(session: Session, count: Accumulator) -> None:
    session.spark.udf.register("counted_to_sort", counting(count))
    session.spark.sql("SELECT counted_to_sort(id) AS n FROM range(0, 1000, 1, 4) ORDER BY n").collect()


# Query -> what its plan evaluates once.
QUERIES: dict[str, tuple[Callable[[Session, Accumulator], object], int]] = {
    "a column": (lambda session, count: rows(session, count).collect(), 1000),
    "a sort": (lambda session, count: rows(session, count).orderBy("n").collect(), 1000),
    "ranges": (lambda session, count: rows(session, count).repartitionByRange(3, "n").collect(), 1000),
    "a filter": (lambda session, count: rows(session, count).filter("n > 10").collect(), 1000),
    "a union with some of the rows": (union_with_some_rows_again, 1500),
    "cached, then filtered": (cached_and_filtered, 1000),
    "cached, with another setting": (cached_with_other_settings, 200),
    "a view in two queries": (view_in_two_queries, 2000),
    "a sort on a registered function": (sort_on_a_registered_function, 1000),
    "coalesce": (lambda session, count: rows(session, count).coalesce(1).collect(), 1000),
    "coalesce and write": (lambda session, count: write(rows(session, count).coalesce(2)), 1000),
    "mapInPandas, then coalesce": (map_then_coalesce, 1000),
    "a DataFrame twice in SQL": (used_twice_in_sql, 2000),
    "a lazy checkpoint and another use": (checkpoint_and_another_use, 2000),
    "a checkpoint, then coalesce, and another use": (checkpoint_then_coalesce_and_another_use, 2000),
    "a checkpoint in WITH": (checkpoint_of_what_would_be_in_doubt, 1000),
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


@pytest.mark.parametrize("adaptive", ["true", pytest.param("false", marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_counts_what_happened_once(shared: Session, count: Accumulator, name: str, adaptive: str) -> None:
    shared.spark.conf.set("spark.sql.adaptive.enabled", adaptive)
    shared.spark.conf.set("spark.sql.shuffle.partitions", "3")
    query, expected = QUERIES[name]
    query(shared, count)
    assert count.value == expected


def test_a_condition_that_is_copied_counts_all_rows(shared: Session, count: Accumulator) -> None:
    """Rows of both sides, of which 25 are on both: at least 75, and not more than all evaluations."""
    filter_above_a_join(shared, count)
    assert 150 <= count.value <= 200


def test_a_plan_of_many_levels_can_be_read(shared: Session, count: Accumulator) -> None:
    frame = shared.spark.range(3)
    for number in range(100):
        frame = frame.withColumn(f"c{number}", F.lit(number))
    frame.select(counting(count)("id")).collect()
    assert count.value == 3
    joined = shared.spark.range(3).withColumn("n", counting(count)("id")).join(shared.spark.range(3), "id")
    for number in range(60):
        joined = joined.filter(f"id >= {-number}")
    joined.collect()
    assert count.value == 6


def test_tags_of_users_are_no_operations(shared: Session, count: Accumulator) -> None:
    for number in range(6):
        shared.spark.addTag(f"t{number}_Operation_5")
    rows(shared, count, 10).collect()
    shared.spark.clearTags()
    assert count.value == 10


def stream_of(session: Session, number: int, directory: Path) -> DataFrame:
    """Return a stream of so many rows in four files, in two batches."""
    session.spark.range(0, number, 1, 4).write.parquet(str(directory))
    return session.spark.readStream.schema("id long").option("maxFilesPerTrigger", 3).parquet(str(directory))


def test_a_filter_in_a_stream_counts_each_row_once(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")
    kept = stream_of(session, 400, tmp_path / "in").select(counting(count)("id").alias("n")).where("n % 2 = 0")
    writer = kept.writeStream.format("noop").option("checkpointLocation", str(tmp_path / "log"))
    assert writer.trigger(availableNow=True).start().awaitTermination(240)
    assert count.value == 400


def test_what_foreach_batch_writes_of_a_stream_is_counted(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")

    def write_batch(frame: DataFrame, number: int) -> None:
        write(frame)

    writer = stream_of(session, 10, tmp_path / "in").select(counting(count)("id")).writeStream.foreachBatch(write_batch)
    assert writer.trigger(availableNow=True).start().awaitTermination(240)
    assert count.value == 10


def test_a_use_in_foreach_batch_is_refused(session: Session, tmp_path: Path) -> None:
    count = session.accumulator("count")

    def write_batch(frame: DataFrame, number: int) -> None:
        write(frame.select(udf(lambda value: count.add(1), "long")("id")))

    stream = stream_of(session, 10, tmp_path / "in").writeStream
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
