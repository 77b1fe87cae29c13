"""A task that is killed while Spark runs a query for it."""

from airflow.sdk import dag, task


@dag(schedule=None)
def slow():
    @task.spark_connect
    def query(spark, params):
        from pathlib import Path

        from pyspark.sql.functions import udf

        marker = params["marker"]

        @udf("long")
        def sleep(value):
            import os
            import time

            Path(marker).write_text(str(os.getpid()))
            time.sleep(100)
            return value

        return spark.range(1).select(sleep("id")).collect()

    query()


slow()
