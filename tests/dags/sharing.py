"""Tasks that share a session. One of them fails, and one session is lost before its second task."""

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import SharedSession, VenvEnvironment
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.session import spark_session

old_six = VenvEnvironment(["six==1.15.0", "pyarrow"])


def six_version(_):
    import six

    return six.__version__


def query_six_version(spark):
    from pyspark.sql.functions import udf

    return spark.range(1).select(udf(six_version, "string")("id")).collect()[0][0]


@dag(schedule=None)
def sharing():
    with spark_session(environment=old_six) as session:

        @task.spark_connect(session=session)
        def creates_view(spark):
            spark.range(3).createTempView("numbers")
            return query_six_version(spark)

        @task.spark_connect(session=session, environment=old_six)
        def reads_view(spark, number):
            return [number, spark.table("numbers").count(), query_six_version(spark), spark.session_id]

        @task.spark_connect(session=session, environment=VenvEnvironment(["six==1.16.0", "pyarrow"]))
        def names_another_environment(spark):
            return 1

        creates_view() >> [reads_view.expand(number=[1, 2]), names_another_environment()]

    with spark_session("fragile", environment=old_six, on_lost="reopen") as fragile:

        @task
        def lose(opened):
            SparkConnectHook("sparkdeps_default").close_shared_session(SharedSession.from_dict(opened))

        @task.spark_connect(session=fragile)
        def continues(spark):
            return [query_six_version(spark), spark.session_id]

        lose(fragile) >> continues()


sharing()
