"""Give UDFs a large lookup table that is sent once per session, not with each query."""

from __future__ import annotations

from airflow.sdk import dag, task


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_broadcast():
    @task.spark_connect
    def name_cities(spark, broadcast):
        from pyspark.sql.functions import udf

        names = broadcast({number: f"city {number}" for number in range(200_000)})

        @udf("string")
        def city(number):  # runs on executors; each Python worker loads the table once
            return names.value.get(number, "unknown")

        numbers = spark.createDataFrame([(7,), (199_999,), (-1,)], "number long")
        return [row[0] for row in numbers.select(city("number")).collect()]

    name_cities()


example_sparkdeps_broadcast()
