"""Install a project of the team, with the exact versions and hashes of its lock, on executors."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment

# The path is relative to this file. pylock.toml and uv.lock are read in the same way.
order_rules = VenvEnvironment.from_file("locked_project/requirements.txt")


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_locked_project():
    @task.spark_connect(environment=order_rules)
    def product_keys(spark):
        from pyspark.sql.functions import udf

        @udf("string")
        def key(name):  # runs on executors
            from order_rules import product_key

            return product_key(name)

        products = spark.createDataFrame([("Crème brûlée",), ("CREME BRULEE",), ("Apple pie",)], "name string")
        return sorted({row[0] for row in products.select(key("name")).collect()})

    product_keys()


example_sparkdeps_locked_project()
