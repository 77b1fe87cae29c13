"""UDFs that can't run on executors, one that is expensive to send, and one that is too large to be sent."""

import threading

import by_value_helpers
from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment

LOCK = threading.Lock()
TABLE = list(range(900_000))
TOO_LARGE = bytes(70_000_000)


def guarded(text):
    with LOCK:
        return text


def lengths(key):
    return len(TABLE) + key


@dag(schedule=None)
def pitfalls():
    @task.spark_connect
    def refused(spark):
        from pyspark.sql.functions import udf

        print("the callable was called")
        return spark.range(1).select(udf(guarded, "string")("id")).count()

    @task.spark_connect(environment=VenvEnvironment(["six==1.16.0"]))
    def missing(spark):
        from pyspark.sql.functions import udf

        print("the callable was called")

        @udf("string")
        def shout(text):
            import by_value_helpers

            return by_value_helpers.shout(text)

        return [row[0] for row in spark.range(1).select(shout("id")).collect()]

    @task.spark_connect
    def warned(spark):
        from pyspark.sql.functions import udf

        return [row[0] for row in spark.range(2).select(udf(lengths, "long")("id")).collect()]

    @task.spark_connect
    def too_large(spark):
        from pyspark.sql.functions import udf

        return spark.range(1).select(udf(lambda key: len(TOO_LARGE), "long")("id")).collect()

    @task.spark_connect
    def accepted(spark):
        from pyspark.sql.functions import udf

        frame = spark.createDataFrame([("ab",)], "text string")
        shouted = frame.select(udf(lambda text: by_value_helpers.shout(text), "string")("text"))
        with LOCK:
            return [row[0] for row in shouted.collect()]

    refused(), missing(), warned(), too_large(), accepted()


pitfalls()
