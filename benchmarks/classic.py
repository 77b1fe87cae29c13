"""PySpark's classic mode in a separate process, for comparisons with its accumulators."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_ANSWER = "=> "


class Classic:
    """Context manager of a SparkContext with two executors, with the Spark, Java and settings of `EmbeddedServer`.

    :param directory: work directory, created if needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
        from benchmarks.setting import MASTER

        self._directory.mkdir(parents=True, exist_ok=True)
        environ = EmbeddedServer(MASTER, work_dir=self._directory)._prepare()
        with (self._directory / "classic.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-u", __file__],
                env=environ,
                cwd=self._directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process and process.stdin and process.stdout:
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def run(self, work: str, *arguments: Any) -> Any:
        """Call a function of `WORK` in that process and return its result."""
        if not (self._process and self._process.stdin and self._process.stdout):
            raise SystemExit("Classic Spark is not running. Call run() inside the `with` block.")
        self._process.stdin.write(json.dumps([work, arguments]) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(_ANSWER):
                return json.loads(line.removeprefix(_ANSWER))
        log = (self._directory / "classic.log").read_text(errors="replace")
        raise SystemExit(f"Classic Spark has ended:\n{log[-3000:]}")


def seconds_per_row(spark: Any, rows: int) -> float:
    """Count rows one by one in a UDF; return the seconds."""
    import time

    from pyspark.sql.functions import udf

    count = spark.sparkContext.accumulator(0)

    @udf("long")
    def counted(value: int) -> int:
        count.add(1)
        return value

    frame = spark.range(0, rows, 1, 4).select(counted("id"))
    start = time.perf_counter()
    frame.write.format("noop").mode("overwrite").save()
    taken = time.perf_counter() - start
    if count.value != rows:
        raise SystemExit(f"Counted {count.value} of {rows} rows.")
    return taken


def counted_rows(spark: Any, query: str, marker: str = "") -> int:
    """Run a query with one `add(1)` for each of 1,000 rows; return the count."""
    import os
    import signal
    import time
    from pathlib import Path

    from pyspark import TaskContext
    from pyspark.sql.functions import col, udf

    count = spark.sparkContext.accumulator(0)

    def counting(value: int) -> int:
        count.add(1)
        return value

    def killing(value: int) -> int:
        if not Path(marker).exists():
            Path(marker).touch()
            executor = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(executor, signal.SIGKILL)
        return value

    def failing(value: int) -> int:
        count.add(1)
        if value == 900 and not Path(marker).exists():
            Path(marker).touch()
            raise ValueError("once")
        return value

    def slow(value: int) -> int:
        context = TaskContext.get()
        count.add(1)
        if value == 0 and context is not None and context.attemptNumber() == 0:
            time.sleep(5)
        return value

    def frame(function: Callable[[int], int], rows: int = 1000) -> Any:
        return spark.range(0, rows, 1, 4).select(udf(function, "long")("id").alias("n"))

    counted = frame(counting)
    registered = spark.udf.register("counting", counting, "long")
    by_name = spark.range(0, 1000, 1, 4).select(registered("id").alias("n"))
    queries: dict[str, Callable[[], object]] = {
        "plain": lambda: counted.collect(),
        "order": lambda: counted.orderBy("n").collect(),
        "range": lambda: counted.repartitionByRange(3, "n").collect(),
        "filter": lambda: counted.where(col("n") > 10).collect(),
        "self-join": lambda: counted.join(counted, "n").collect(),
        "join": lambda: counted.join(frame(counting, 500), "n").collect(),
        "union": lambda: counted.union(frame(counting, 500)).collect(),
        "cache": lambda: (
            counted.cache().orderBy("n").collect(),
            counted.where("n >= 500").collect(),
            counted.unpersist(),
        ),
        "killed": lambda: counted.repartition(3).select(udf(killing, "long")("n")).collect(),
        "retried": lambda: frame(failing).collect(),
        "retried, shuffled": lambda: frame(failing).repartition(3).collect(),
        "speculation": lambda: frame(slow).repartition(3).collect(),
        "failed": lambda: frame(lambda value: counting(value) // (value - 900)).collect(),
        "registered, join": lambda: by_name.join(
            by_name.where("n < 500").withColumnRenamed("n", "m"), col("n") == col("m")
        ).collect(),
        "registered, order": lambda: by_name.orderBy("n").collect(),
        "limit": lambda: counted.limit(1).collect(),
        "count": lambda: counted.count(),
    }
    try:
        queries[query]()
    except Exception:
        if query != "failed":
            raise
    value: int = count.value
    return value


WORK: dict[str, Callable[..., Any]] = {"seconds_per_row": seconds_per_row, "counted_rows": counted_rows}


def main() -> None:
    """Answer each line of standard input, until it is closed."""
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.getOrCreate()
    for line in sys.stdin:
        work, arguments = json.loads(line)
        print(_ANSWER + json.dumps(WORK[work](spark, *arguments)), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
