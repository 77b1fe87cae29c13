"""Have the cluster read archives from the archive store itself, so that none of them flow through the worker.

The connection says how: set its field Delivery to `reference`. The store then has to be one that the cluster can read,
such as an object store with presigned URLs or a shared directory.
"""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment

friendly = VenvEnvironment(["humanize==4.*", "pyarrow"])


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_by_reference():
    @task.spark_connect(environment=friendly, spark_conn_id="sparkdeps_by_reference")
    def ordinals(spark):
        from pyspark.sql.functions import udf

        @udf("string")
        def ordinal(number):  # runs on executors
            import humanize

            return humanize.ordinal(number)

        return [row[0] for row in spark.range(1, 4).select(ordinal("id")).collect()]

    ordinals()


example_sparkdeps_by_reference()
