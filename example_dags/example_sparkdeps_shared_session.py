"""Share one session between tasks: what one task prepares, mapped tasks read, without preparing it again."""

from __future__ import annotations

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment
from airflow_provider_sparkdeps.operators.session import spark_session

friendly = VenvEnvironment(["humanize==4.*", "pyarrow"])


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_shared_session():
    # Adds the tasks open_spark_session and close_spark_session.
    with spark_session(environment=friendly) as session:

        @task.spark_connect(session=session)
        def prepare(spark):
            orders = spark.createDataFrame([("mon", 1200), ("mon", 34000), ("tue", 5600)], "day string, amount long")
            orders.cache().createTempView("orders")
            return ["mon", "tue"]

        @task.spark_connect(session=session)
        def summarize(spark, day):
            from pyspark.sql.functions import sum as total
            from pyspark.sql.functions import udf

            @udf("string")
            def in_words(amount):  # runs on executors
                import humanize

                return humanize.intcomma(amount)

            orders = spark.table("orders").where(f"day = '{day}'")
            return f"{day}: {orders.agg(total('amount').alias('sum')).select(in_words('sum')).first()[0]}"

        summaries = summarize.expand(day=prepare())

    @task
    def report(lines):
        print("; ".join(lines))
        return list(lines)

    report(summaries)


example_sparkdeps_shared_session()
