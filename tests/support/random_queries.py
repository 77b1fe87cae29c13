"""Random queries whose UDFs add to an accumulator, and write a line for each row that they evaluate."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.functions import col, pandas_udf, udf, udtf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.session import Session

# Keys of different branches of a union, or of pairs of rows, must differ.
_FACTOR = 100_000
_names = itertools.count()


@dataclass
class RandomQuery:
    """A query of the columns `k`, which is unique, and `n`, which UDFs have computed.

    :param log: the file to which UDFs write `place:row` for each row that they evaluate.
    :param work: a directory for what queries write.
    :param kills: a task kills its executor, once.
    """

    session: Session
    accumulator: Accumulator
    log: Path
    work: Path
    seed: int
    kills: bool = False
    steps: list[str] = field(default_factory=list)
    frames: list[DataFrame] = field(default_factory=list)
    cached: list[DataFrame] = field(default_factory=list)
    # A DataFrame is used twice, so that its rows are evaluated twice, unless Spark shares the evaluation.
    is_shared: bool = False
    # The function that was made last.
    function: Any = None

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.fails = self.random.random() < 0.1
        self.is_stream = self.random.random() < 0.05

    def run(self) -> None:
        """Build the query and run its actions."""
        adaptive = self.random.choice(("true", "true", "false"))
        self.session.spark.conf.set("spark.sql.adaptive.enabled", adaptive)
        self.session.spark.conf.set("spark.sql.shuffle.partitions", str(self.random.randint(1, 4)))
        self.steps.append(f"adaptive={adaptive}")
        frame = self._evaluated(self._stream() if self.is_stream else self._base())
        for _ in range(self.random.randint(0, 4)):
            step = self.random.choice(_STREAM_STEPS if self.is_stream else _STEPS)
            self.steps.append(step.__name__.strip("_"))
            # PySpark removes a checkpoint when nothing refers to its DataFrame.
            self.frames.append(frame)
            frame = step(self, frame)
        action = _write_stream if self.is_stream else self.random.choice(_ACTIONS)
        self.steps.append(action.__name__.strip("_"))
        action(self, frame)

    def lines(self) -> Counter[str]:
        """Return how often each row was evaluated in each place."""
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()

    def place(self) -> str:
        """Return the name of a new place in the query."""
        return f"{self.seed}-{next(_names)}"

    def close(self) -> None:
        for frame in self.cached:
            frame.unpersist()

    def _base(self, size: int = 0) -> DataFrame:
        size = size or self.random.choice((1, 7, 200, 400))
        frame = self.session.spark.range(0, size, 1, self.random.randint(1, 5)).select(col("id").alias("k"))
        return frame.repartition(self.random.randint(2, 5), col("k") % 3) if self.random.random() < 0.15 else frame

    def _stream(self) -> DataFrame:
        """Return a stream of three files, in one batch or several."""
        path = str(self.work / f"in-{self.seed}")
        self._base().repartition(3).write.parquet(path)
        reader = self.session.spark.readStream.schema("k long")
        return reader.option("maxFilesPerTrigger", self.random.randint(1, 3)).parquet(path)

    def _evaluated(self, frame: DataFrame) -> DataFrame:
        """Return a frame with `n` computed by a new UDF."""
        kinds = [_plain, _plain, _arrow, _pandas, _map_in_pandas, _map_in_arrow, _table_function]
        kind = self.random.choice(kinds if frame.isStreaming else [*kinds, _apply_in_pandas])
        self.steps.append(kind.__name__.strip("_"))
        return kind(self, frame)

    def _other(self, size: int = 0) -> DataFrame:
        """Return a frame with other keys, and `n` computed by a new UDF, or by the last one."""
        frame = self._base(size).select((col("k") + next(_names) * _FACTOR).alias("k"))
        if self.function is None or self.random.random() < 0.5:
            return self._evaluated(frame)
        self.steps.append("same_function")
        return frame.select("k", self.function("k").alias("n"))


def _logged(query: RandomQuery) -> Callable[[list[int]], None]:
    """Return a function that counts rows and writes them down."""
    accumulator, place, path = query.accumulator, query.place(), str(query.log)
    fails, kills, marker = query.fails, query.kills, f"{query.log}.marker"

    def log(rows: list[int]) -> None:
        accumulator.add(len(rows))
        if (fails or kills) and not os.path.exists(marker):  # noqa: PTH110 (executors get few modules)
            os.close(os.open(marker, os.O_CREAT))
            if fails:
                raise ValueError("once")
            daemon = os.getppid()
            with open(f"/proc/{daemon}/stat") as stat:  # noqa: PTH123
                os.kill(int(stat.read().rpartition(")")[2].split()[1]), 9)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, "".join(f"{place}:{row}\n" for row in rows).encode())
        os.close(file)

    return log


def _named(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with a name of its own, as in most users' queries."""
    function.__name__ = f"evaluate_{next(_names)}"
    return function


def _scalar(query: RandomQuery) -> Callable[[int], int]:
    log = _logged(query)

    def evaluate(value: int) -> int:
        log([value])
        return value

    return _named(evaluate)


def _plain(query: RandomQuery, frame: DataFrame) -> DataFrame:
    query.function = udf(_scalar(query), "long", useArrow=False)
    return frame.select("k", query.function("k").alias("n"))


def _arrow(query: RandomQuery, frame: DataFrame) -> DataFrame:
    query.function = udf(_scalar(query), "long", useArrow=True)
    return frame.withColumn("n", query.function("k")).select("k", "n")


def _pandas(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)

    def evaluate(keys: pd.Series) -> pd.Series:
        log([int(key) for key in keys])
        return keys

    evaluate.__annotations__ = {"keys": pd.Series, "return": pd.Series}
    return frame.select("k", pandas_udf(_named(evaluate), "long")("k").alias("n"))


def _map_in_pandas(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)

    def evaluate(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for batch in batches:
            log([int(key) for key in batch["k"]])
            yield batch.assign(n=batch["k"])[["k", "n"]]

    return frame.mapInPandas(_named(evaluate), "k long, n long")


def _map_in_arrow(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)

    def evaluate(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow

        for batch in batches:
            keys = batch.column("k")
            log(keys.to_pylist())
            yield pyarrow.RecordBatch.from_arrays([keys, keys], ["k", "n"])

    return frame.select("k").mapInArrow(_named(evaluate), "k long, n long")


def _apply_in_pandas(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)

    def evaluate(group: pd.DataFrame) -> pd.DataFrame:
        log([int(key) for key in group["k"]])
        return group.assign(n=group["k"])[["k", "n"]]

    return frame.groupBy((col("k") % 3).alias("g")).applyInPandas(_named(evaluate), "k long, n long")


def _table_function(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)

    class Evaluate:
        def eval(self, key: int) -> Iterator[tuple[int, int]]:
            log([key])
            yield key, key

    function: Any = udtf(Evaluate, returnType="k long, n long", useArrow=query.random.random() < 0.3)
    if query.random.random() < 0.6:
        return frame.select(col("k").alias("key")).lateralJoin(function(col("key").outer())).select("k", "n")
    name = f"t_{query.seed}_{next(_names)}"
    query.session.spark.udtf.register(name, function)
    return query.session.spark.sql(f"SELECT t.k, t.n FROM {{d}} d, LATERAL {name}(d.k) t", d=frame)


def _again(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return query._evaluated(frame)


def _same_function_twice(query: RandomQuery, frame: DataFrame) -> DataFrame:
    function = udf(_scalar(query), "long")
    return frame.select("k", (function("k") + function(-1 - col("k"))).alias("n"))


def _filter_on_result(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.filter(col("n") % 7 < 5)


def _filter_on_key(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.filter(col("k") % 5 < 4)


def _filter_by_udf(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.filter(udf(_scalar(query), "long")("k") % 7 < 6)


def _coalesce(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.coalesce(query.random.randint(1, 2))


def _repartition(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.repartition(query.random.randint(1, 4), *query.random.choice(((), ("k",), ("n",))))


def _range(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.repartitionByRange(query.random.randint(1, 4), query.random.choice(("k", "n")))


def _sort(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.orderBy(query.random.choice(("k", "n")))


def _sort_within(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.sortWithinPartitions("n")


def _window(query: RandomQuery, frame: DataFrame) -> DataFrame:
    window = Window.partitionBy(col("n") % 3).orderBy("k")
    return frame.withColumn("n", col("n") + F.row_number().over(window) * 0)


def _distinct(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.distinct()


def _aggregate(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.groupBy("k").agg(F.max("n").alias("n"))


def _explode(query: RandomQuery, frame: DataFrame) -> DataFrame:
    exploded = frame.select("k", F.explode(F.array("n", col("n") + 1)).alias("n"))
    return exploded.select((col("k") * 2 + (col("n") - col("k")) % 2).alias("k"), "n").dropDuplicates(["k"])


def _cache(query: RandomQuery, frame: DataFrame) -> DataFrame:
    cached = frame.cache()
    query.cached.append(cached)
    if query.random.random() < 0.7:
        cached.collect()
    return cached


def _checkpoint(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.localCheckpoint(eager=query.random.random() < 0.5)


def _union(query: RandomQuery, frame: DataFrame) -> DataFrame:
    return frame.union(query._other().select("k", "n"))


def _union_with_itself(query: RandomQuery, frame: DataFrame) -> DataFrame:
    query.is_shared = True
    return frame.union(frame).dropDuplicates(["k"])


def _hinted(query: RandomQuery, frame: DataFrame) -> DataFrame:
    hint = query.random.choice(("", "broadcast", "merge", "shuffle_hash"))
    return frame.hint(hint) if hint else frame


def _join(query: RandomQuery, frame: DataFrame) -> DataFrame:
    other = _hinted(query, query._evaluated(query._base(300)).withColumnRenamed("n", "m"))
    # A stream evaluates the other side in each batch.
    query.is_shared |= query.is_stream
    how = query.random.choice(("inner", "left", "leftsemi", "leftanti", *([] if query.is_stream else ["full"])))
    joined = frame.join(other, "k", how)
    return joined if how in ("leftsemi", "leftanti") else joined.select("k", F.coalesce("n", "m").alias("n"))


def _join_on_result(query: RandomQuery, frame: DataFrame) -> DataFrame:
    other = _hinted(query, query.session.spark.range(300).select(col("id").alias("n"), F.lit(1).alias("one")))
    return frame.join(other, "n").select("k", "n")


def _join_with_itself(query: RandomQuery, frame: DataFrame) -> DataFrame:
    query.is_shared = True
    return frame.join(_hinted(query, frame.select("k", col("n").alias("m"))), "k").select("k", "n")


def _cross_join(query: RandomQuery, frame: DataFrame) -> DataFrame:
    other = query.session.spark.range(3).select(col("id").alias("j"))
    return frame.crossJoin(F.broadcast(other)).select((col("k") * 3 + col("j")).alias("k"), "n")


def _intersect(query: RandomQuery, frame: DataFrame) -> DataFrame:
    other = query.session.spark.range(0, 300).select(col("id").alias("k"), col("id").alias("n"))
    return frame.intersect(other)


def _cogroup(query: RandomQuery, frame: DataFrame) -> DataFrame:
    log = _logged(query)
    other = query.session.spark.range(0, 50).select(col("id").alias("k"))

    def evaluate(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
        log([int(key) for key in left["k"]])
        return left[["k", "n"]]

    return frame.groupBy("k").cogroup(other.groupBy("k")).applyInPandas(_named(evaluate), "k long, n long")


def _sql(query: RandomQuery, frame: DataFrame) -> DataFrame:
    text = query.random.choice(
        (
            "SELECT k, n FROM {d} WHERE n % 7 < 5",
            "SELECT k, max(n) AS n FROM {d} GROUP BY k",
            "SELECT /*+ COALESCE(1) */ k, n FROM {d}",
            "SELECT k, n FROM {d} ORDER BY n",
        )
    )
    return query.session.spark.sql(text, d=frame)


def _sql_twice(query: RandomQuery, frame: DataFrame) -> DataFrame:
    query.is_shared = True
    text = query.random.choice(
        (
            "SELECT x.k, x.n FROM {d} x JOIN {d} y ON x.k = y.k",
            "SELECT k, max(n) AS n FROM (SELECT * FROM {d} UNION ALL SELECT * FROM {d}) GROUP BY k",
        )
    )
    return query.session.spark.sql(text, d=frame)


def _view(query: RandomQuery, frame: DataFrame) -> DataFrame:
    name = f"view_{query.seed}_{next(_names)}"
    frame.createTempView(name)
    text = query.random.choice((f"SELECT k, n FROM {name} WHERE n % 7 < 5", f"SELECT k, n FROM {name}"))
    return query.session.spark.sql(text) if query.random.random() < 0.7 else query.session.spark.table(name)


def _registered(query: RandomQuery, frame: DataFrame) -> DataFrame:
    name = f"f_{query.seed}_{next(_names)}"
    query.session.spark.udf.register(name, _scalar(query), "long")
    if query.random.random() < 0.5:
        return frame.selectExpr("k", f"{name}(k) AS n")
    order = "" if query.is_stream else "ORDER BY n"
    return query.session.spark.sql(f"SELECT k, {name}(k) AS n FROM {{d}} {order}", d=frame)


def _subquery(query: RandomQuery, frame: DataFrame) -> DataFrame:
    other = query._other(query.random.choice((7, 200)))
    query.is_shared |= query.is_stream
    return frame.where(col("k") <= other.select(F.max("n") + 1000).scalar())


def _collect(query: RandomQuery, frame: DataFrame) -> None:
    frame.collect()


def _to_pandas(query: RandomQuery, frame: DataFrame) -> None:
    frame.toPandas()


def _write_noop(query: RandomQuery, frame: DataFrame) -> None:
    frame.write.format("noop").mode("append").save()


def _write_files(query: RandomQuery, frame: DataFrame) -> None:
    frame.write.mode("overwrite").parquet(str(query.work / "out"))
    shutil.rmtree(query.work / "out", ignore_errors=True)


def _write_stream(query: RandomQuery, frame: DataFrame) -> None:
    writer = frame.writeStream.format("noop").option("checkpointLocation", str(query.work / f"log-{query.seed}"))
    stream = writer.trigger(availableNow=True).start()
    if not stream.awaitTermination(300):
        stream.stop()
        raise TimeoutError("A stream did not end within 300 seconds.")


_STEPS: list[Callable[[RandomQuery, DataFrame], DataFrame]] = [
    *(_again, _same_function_twice, _filter_on_result, _filter_on_key, _filter_by_udf, _coalesce, _repartition),
    *(_range, _sort, _sort_within, _window, _distinct, _aggregate, _explode, _cache, _checkpoint, _union),
    *(_union_with_itself, _join, _join_on_result, _join_with_itself, _cross_join, _intersect, _cogroup, _sql),
    *(_sql_twice, _view, _registered, _subquery, _filter_on_result, _filter_on_result, _coalesce),
]
_STREAM_STEPS: list[Callable[[RandomQuery, DataFrame], DataFrame]] = [
    *(_again, _same_function_twice, _filter_on_result, _filter_on_key, _filter_by_udf, _coalesce, _repartition),
    *(_distinct, _explode, _join, _join_on_result, _cross_join, _view, _registered, _subquery, _filter_on_result),
]
_ACTIONS: list[Callable[[RandomQuery, DataFrame], None]] = [
    *(_collect, _collect, _collect, _to_pandas, _write_noop, _write_noop, _write_files),
]
