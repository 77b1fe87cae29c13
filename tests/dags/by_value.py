"""UDFs and a broadcast value with functions and classes of a DAG file and of a module next to it."""

import by_value_helpers
from airflow.sdk import dag, task
from pyspark.sql.connect.functions import udf
from pyspark.sql.types import StringType


def repeat(text):
    return text + text


class Suffix:
    def __init__(self, text):
        self.text = text


@udf(StringType())
def module_level(text):
    return by_value_helpers.shout(repeat(text))


@dag(schedule=None)
def by_value():
    @task.spark_connect
    def run(spark, broadcast):
        import imported_late
        from pyspark.sql.functions import udf

        function_of_file = udf(repeat, "string")
        frame = spark.createDataFrame([("ab",)], "text string")
        helper = udf(lambda text: imported_late.reverse(by_value_helpers.shout(text)), "string")
        suffix = broadcast(Suffix("."))
        suffixed = udf(lambda text: text + suffix.value.text, "string")
        columns = (function("text") for function in (module_level, function_of_file, helper, suffixed))
        return [list(row) for row in frame.select(*columns).collect()]

    run()


by_value()
