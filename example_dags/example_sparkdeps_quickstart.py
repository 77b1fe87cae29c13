"""Build an environment, wait for it, use it on executors, and report what a UDF counted."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator
from airflow_provider_sparkdeps.sensors.environment import EnvironmentSensor

# Neither the Airflow worker nor the cluster has humanize. Only this environment does.
friendly = VenvEnvironment(["humanize==4.*", "pyarrow"])


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_quickstart():
    build = BuildEnvironmentOperator(task_id="build", environment=friendly)
    wait = EnvironmentSensor(task_id="wait", environment=friendly, deferrable=True, poke_interval=2)

    @task.spark_connect(environment=friendly, accumulators={"bad_rows": 0})
    def spell(spark, accumulators):
        from pyspark.sql.functions import udf

        bad_rows = accumulators["bad_rows"]

        @udf("string")
        def in_words(text):  # runs on executors
            import humanize

            try:
                return humanize.intword(int(text))
            except ValueError:
                bad_rows.add(1)
                return None

        orders = spark.createDataFrame([("1200000",), ("42",), ("n/a",), ("3000000000",), ("?",)], "amount string")
        return [row.asDict() for row in orders.withColumn("words", in_words("amount")).collect()]

    @task
    def report(rows, accumulators):
        for row in rows:
            print(f"{row['amount']:>10}  {row['words'] or '(not a number)'}")
        print(f"{len(rows)} rows, accumulators: {accumulators}")

    spelled = spell()
    [build, wait] >> spelled
    report(spelled, spelled["accumulators"])


example_sparkdeps_quickstart()
