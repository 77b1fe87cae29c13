"""A task that writes its rows and adds more to an accumulator than its limit."""

import tempfile
from datetime import timedelta

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import SetOf


@dag(schedule=None)
def limits():
    @task.spark_connect(accumulators={"codes": SetOf(limit=300)}, retries=1, retry_delay=timedelta(0))
    def over_the_limit(spark, accumulators, name):
        from pyspark.sql.functions import udf

        codes = accumulators["codes"]
        path = f"{tempfile.gettempdir()}/over-the-limit-{name}"

        @udf("long")
        def add(n):
            codes.add(n)
            return n

        # Each of the four tasks adds 250 codes, and all of them together more than the limit.
        spark.range(0, 1000, 1, 4).select(add("id")).write.mode("append").parquet(path)
        return [spark.read.parquet(path).count(), len(codes.value), codes.dropped]

    over_the_limit("{{ ts_nodash }}")


limits()
