"""Queries whose functions count rows in an accumulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.session import Session


def counting(count: Accumulator) -> Callable[..., Any]:
    def counted(value: int) -> int:
        count.add(1)
        return value

    return udf(counted, "long")


def rows(session: Session, count: Accumulator, number: int = 1000, partitions: int = 4, *, start: int = 0) -> DataFrame:
    return session.spark.range(start, start + number, 1, partitions).select(counting(count)("id").alias("n"))


def keys(session: Session, start: int, end: int) -> DataFrame:
    return session.spark.range(start, end, 1, 2).withColumnRenamed("id", "k")
