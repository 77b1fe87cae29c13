"""Functions at module level of a DAG file, and of a module beside it, inside UDFs."""

import by_value_helpers
from airflow.sdk import dag, task
from pyspark.sql.connect.functions import udf
from pyspark.sql.types import StringType


def twice(text):
    return text + text


@udf(StringType())
def module_level(text):
    return by_value_helpers.shout(twice(text))


@dag(schedule=None)
def by_value():
    @task.spark_connect
    def run(spark):
        import imported_late
        from pyspark.sql.functions import udf

        plain = udf(twice, "string")
        frame = spark.createDataFrame([("ab",)], "text string")
        helper = udf(lambda text: imported_late.reverse(by_value_helpers.shout(text)), "string")
        return [list(row) for row in frame.select(module_level("text"), plain("text"), helper("text")).collect()]

    run()


by_value()
