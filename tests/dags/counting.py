"""Accumulators that go on in downstream tasks, by XCom and by template."""

from airflow.sdk import dag, task


def count(spark, accumulators, size, ds=None, **context):
    from pyspark.sql.functions import udf

    rows = accumulators["rows"]

    @udf("long")
    def counted(value):
        rows.add(1)
        return value

    spark.range(0, size, 1, 4).select(counted("id")).collect()
    return f"{context['dag'].dag_id} {rows.value}"


@dag(schedule=None)
def counting():
    first = task.spark_connect(task_id="first", accumulators={"rows": 0})(count)(size=1000)
    second = task.spark_connect(task_id="second", accumulators=first["accumulators"])(count)(10)
    template = "{{ ti.xcom_pull(task_ids='second', key='accumulators')['rows'] }}"
    third = task.spark_connect(task_id="third", accumulators={"rows": template})(count)(size=1)
    second >> third


counting()
