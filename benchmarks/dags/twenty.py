"""Twenty mapped tasks with one UDF each: with no environment, with ours, and with the recipe."""

import os
from pathlib import Path

from airflow.sdk import dag, task

from airflow_provider_sparkdeps.environments import VenvEnvironment

PACKAGES = os.environ["BENCH_PACKAGES"].split()
TASKS = int(os.environ["BENCH_TASKS"])


def count(spark):
    from pyspark.sql.functions import udf

    more = udf(lambda value: value + 1, "long")
    return spark.range(0, 8, 1, 4).select(more("id").alias("n")).agg({"n": "sum"}).collect()[0][0]


@dag(schedule=None)
def none():
    @task.spark_connect
    def use(spark, number):
        return count(spark)

    use.expand(number=[*range(TASKS)])


@dag(schedule=None)
def ours():
    @task.spark_connect(environment=VenvEnvironment(PACKAGES))
    def use(spark, number):
        return count(spark)

    use.expand(number=[*range(TASKS)])


@dag(schedule=None)
def recipe():
    @task.spark_connect
    def use(spark, number):
        archive = Path(os.environ["BENCH_ARCHIVE"])
        spark.addArtifact(f"{archive}#environment", archive=True)
        spark.conf.set("spark.sql.execution.pyspark.python", "environment/bin/python")
        return count(spark)

    use.expand(number=[*range(TASKS)])


none()
ours()
recipe()
