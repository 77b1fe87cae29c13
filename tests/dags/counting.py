"""Accumulators that continue in downstream tasks, from XCom and from a template."""

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import Max, SetOf

INITIAL = {"rows": 0, "digits": SetOf(["start"], limit=20), "largest": Max()}


def count(spark, accumulators, size, ds=None, **context):
    from pyspark.sql.functions import udf

    rows, digits, largest = (accumulators[name] for name in ("rows", "digits", "largest"))

    @udf("long")
    def counted(value):
        rows.add(1)
        digits.add(value % 10)
        largest.add(value)
        return value

    spark.range(0, size, 1, 4).select(counted("id")).collect()
    return f"{context['dag'].dag_id} {rows.value}"


@dag(schedule=None)
def counting():
    first = task.spark_connect(task_id="first", accumulators=INITIAL)(count)(size=1000)
    second = task.spark_connect(task_id="second", accumulators=first["accumulators"])(count)(10)
    templates = {name: f"{{{{ ti.xcom_pull(task_ids='second', key='accumulators')['{name}'] }}}}" for name in INITIAL}
    third = task.spark_connect(task_id="third", accumulators=templates)(count)(size=1)
    second >> third


counting()
