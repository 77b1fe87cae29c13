"""Accumulators count wherever Spark runs a function on rows, and say so where its updates would be lost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from pyspark.errors import PySparkException
from pyspark.sql.datasource import DataSource, DataSourceReader, DataSourceWriter, InputPartition, WriterCommitMessage
from pyspark.sql.functions import lit, udf, udtf
from pyspark.sql.types import StructType
from pyspark.sql.udtf import AnalyzeResult

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.session import Session


def make_source(count: Accumulator, *, planning: bool = False) -> type[DataSource]:
    """Return a data source of 2 partitions of 5 rows that adds 1 for each row that it reads or writes.

    :param planning: add where it is planned, too.
    """

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            if planning:
                count.add(1)
            return [InputPartition(0), InputPartition(5)]

        def read(self, partition: InputPartition) -> Iterator[tuple[int]]:
            for value in range(partition.value, partition.value + 5):
                count.add(1)
                yield (value,)

    class Writer(DataSourceWriter):
        def write(self, rows: Iterator[Any]) -> WriterCommitMessage:
            for _ in rows:
                count.add(1)
            return WriterCommitMessage()

    class Source(DataSource):
        @classmethod
        def name(cls) -> str:
            return "sparkdeps_counting_source"

        def schema(self) -> str:
            return "id long"

        def reader(self, schema: StructType) -> DataSourceReader:
            return Reader()

        def writer(self, schema: StructType, overwrite: bool) -> DataSourceWriter:
            return Writer()

    return Source


def test_a_data_source_counts_what_it_reads_and_writes(session: Session) -> None:
    count = session.accumulator("count")
    session.spark.dataSource.register(make_source(count))
    assert len(session.spark.read.format("sparkdeps_counting_source").load().collect()) == 10
    assert count.value == 10
    session.spark.range(0, 7, 1, 2).write.format("sparkdeps_counting_source").mode("append").save()
    assert count.value == 17


def test_adding_where_a_data_source_is_planned_is_refused(session: Session) -> None:
    count = session.accumulator("count")
    session.spark.dataSource.register(make_source(count, planning=True))
    with pytest.raises(PySparkException, match="Accumulator 'count' can't be added to here"):
        session.spark.read.format("sparkdeps_counting_source").load().collect()


def test_a_udtf_counts_rows_and_is_refused_in_analyze(session: Session) -> None:
    count = session.accumulator("count")

    class Twice:
        def eval(self, value: int) -> Iterator[tuple[int]]:
            count.add(1)
            yield from ((value,), (value,))

    class Analyzing:
        @staticmethod
        def analyze(value: Any) -> AnalyzeResult:
            count.add(1)
            return AnalyzeResult(StructType().add("value", "long"))

        def eval(self, value: int) -> Iterator[tuple[int]]:
            yield (value,)

    twice: Any = udtf(Twice, returnType="value long")
    analyzing: Any = udtf(Analyzing)
    assert len(twice(lit(1)).collect()) == 2
    assert count.value == 1
    with pytest.raises(PySparkException, match="Accumulator 'count' can't be added to here"):
        analyzing(lit(1)).collect()
    assert count.value == 1


@dataclass
class Settings:
    """Holds an accumulator, as users' settings do."""

    count: Accumulator


@pytest.mark.parametrize(
    "held_by",
    [
        lambda count: copy.copy(Settings(count)).count,
        lambda count: copy.deepcopy(Settings(count)).count,
        lambda count: copy.deepcopy({"deep": [count]})["deep"][0],
        lambda count: asdict(Settings(count))["count"],
        copy.copy,
    ],
)
def test_copies_of_what_holds_an_accumulator_count(session: Session, held_by: Callable[[Any], Any]) -> None:
    count = session.accumulator("count")
    copied = held_by(count)

    @udf("long")
    def counted(value: int) -> int:
        copied.add(1)
        return value

    session.spark.range(10).select(counted("id")).collect()
    assert count.value == 10
