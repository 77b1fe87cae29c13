"""The main job in four tasks: build an environment, wait for it, use it on executors, report."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator
from airflow_provider_sparkdeps.sensors.environment import EnvironmentArchiveSensor

# Neither the Airflow worker nor the cluster has this package: only the environment does.
numbers = VenvEnvironment(["num2words==0.5.14", "pyarrow"])


@dag(schedule=None, tags=["sparkdeps"])
def sparkdeps_quickstart():
    build = BuildEnvironmentOperator(task_id="build", environment=numbers)
    wait = EnvironmentArchiveSensor(task_id="wait", environment=numbers, deferrable=True, poke_interval=2)

    @task.spark_connect(environment=numbers, accumulators={"bad_rows": 0})
    def spell(spark, accumulators):
        import json

        from pyspark.sql.functions import udf

        bad_rows = accumulators["bad_rows"]

        @udf("string")
        def in_words(text):  # runs on executors
            from num2words import num2words

            try:
                return num2words(int(text))
            except ValueError:
                bad_rows.add(1)
                return None

        orders = spark.createDataFrame([("7",), ("42",), ("n/a",), ("1000",), ("?",)], "amount string")
        spelled = orders.withColumn("words", in_words("amount"))
        return [json.loads(row) for row in spelled.toJSON().collect()]

    @task
    def report(rows, accumulators):
        for row in rows:
            print(f"{row['amount']:>6}  {row.get('words', '(not a number)')}")
        print(f"rows: {len(rows)}, accumulators: {accumulators}")
        return {"rows": len(rows), **accumulators}

    spelled = spell()
    [build, wait] >> spelled
    report(spelled, spelled["accumulators"])


sparkdeps_quickstart()
