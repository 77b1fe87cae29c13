"""Functions and classes at module level of a DAG file, and of a module beside it, inside UDFs and broadcast values."""

import by_value_helpers
from airflow.sdk import dag, task
from pyspark.sql.connect.functions import udf
from pyspark.sql.types import StringType


def twice(text):
    return text + text


class Ending:
    def __init__(self, text):
        self.text = text


@udf(StringType())
def module_level(text):
    return by_value_helpers.shout(twice(text))


@dag(schedule=None)
def by_value():
    @task.spark_connect
    def run(spark, broadcast):
        import imported_late
        from pyspark.sql.functions import udf

        plain = udf(twice, "string")
        frame = spark.createDataFrame([("ab",)], "text string")
        helper = udf(lambda text: imported_late.reverse(by_value_helpers.shout(text)), "string")
        ending = broadcast(Ending("."))
        ended = udf(lambda text: text + ending.value.text, "string")
        columns = (function("text") for function in (module_level, plain, helper, ended))
        return [list(row) for row in frame.select(*columns).collect()]

    run()


by_value()
