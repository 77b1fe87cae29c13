"""Counting on executors, compared with classic PySpark's accumulators and with not counting."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
from benchmarks.classic import Classic
from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, timed
from benchmarks.setting import MASTER, work_directory

ROWS = int(os.environ.get("BENCH_ROWS", "5000000"))
_BATCHED = 10 * ROWS


def run() -> Outcome:
    """Run both Sparks at once, so that they take turns; only one of them works at a time."""
    with (
        work_directory() as directory,
        Classic(directory / "classic") as classic,
        EmbeddedServer(MASTER, work_dir=directory / "server") as server,
        Session(Endpoint(host=server.host, port=server.port), on_progress=lambda _: None) as session,
    ):
        rows = in_turns(
            {
                "per row": lambda: _per_row(session),
                "per row, classic": lambda: float(classic.run("seconds_per_row", ROWS)),
            }
        )
        # A bound of 2 % needs more rounds.
        batches = in_turns(
            {"per batch": lambda: _per_batch(session), "per batch, none": lambda: _batches(session, None)},
            rounds=2 * ROUNDS,
        )
    return Outcome(
        rows | batches,
        (
            Claim(
                f"`add(1)` for each of {ROWS:,} rows, compared with classic PySpark",
                "per row",
                "per row, classic",
                at_most=1.15,
            ),
            Claim(
                f"`add(len(batch))`, pandas UDF over {_BATCHED:,} rows, compared with no accumulator",
                "per batch",
                "per batch, none",
                at_most=1.02,
            ),
        ),
        notes=("classic PySpark is a SparkContext with two executors and the same settings, in a separate process.",),
    )


def _accumulator(session: Session) -> Accumulator:
    return session.accumulator(f"count_{len(session.accumulator_values)}")


def _per_row(session: Session) -> float:
    from pyspark.sql.functions import udf

    count = _accumulator(session)

    @udf("long")
    def counted(value: int) -> int:
        count.add(1)
        return value

    frame = session.spark.range(0, ROWS, 1, 4).select(counted("id"))
    taken = timed(lambda: _drain(frame))
    _expect(count, ROWS)
    return taken


def _per_batch(session: Session) -> float:
    count = _accumulator(session)
    taken = _batches(session, count)
    _expect(count, _BATCHED)
    return taken


def _batches(session: Session, count: Accumulator | None) -> float:
    from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined]

    def counted(values: pd.Series) -> pd.Series:
        assert count is not None
        count.add(len(values))
        return values

    def untouched(values: pd.Series) -> pd.Series:
        return values

    function = pandas_udf(untouched if count is None else counted, "long")
    frame = session.spark.range(0, _BATCHED, 1, 4).select(function("id"))
    return timed(lambda: _drain(frame))


def _drain(frame: Any) -> None:
    frame.write.format("noop").mode("overwrite").save()


def _expect(count: Accumulator, rows: int) -> None:
    if count.value != rows:
        raise SystemExit(f"Counted {count.value} of {rows} rows.")
