"""Pack requirements as a PEX: smaller than a virtualenv, for clusters that have the right Python themselves."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import PexEnvironment

# A PEX that exists already is PexEnvironment.from_pex("app.pex").
friendly = PexEnvironment(["humanize==4.*"])


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_pex():
    @task.spark_connect(environment=friendly)
    def sizes(spark):
        from pyspark.sql.functions import udf

        @udf("string")
        def readable(size):  # runs on executors
            import humanize

            return humanize.naturalsize(size)

        files = spark.createDataFrame([(999,), (5_000_000,), (3_000_000_000,)], "size long")
        return [row[0] for row in files.select(readable("size")).collect()]

    sizes()


example_sparkdeps_pex()
