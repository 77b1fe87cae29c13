"""Tasks that share a session; one of them fails, and one session is lost before its second task."""

from airflow.sdk import dag, task

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.operators.session import spark_session
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

old_six = VenvEnvironment(["six==1.15.0", "pyarrow"])


def six_version(_):
    import six

    return six.__version__


def seen(spark):
    from pyspark.sql.functions import udf

    return spark.range(1).select(udf(six_version, "string")("id")).collect()[0][0]


@dag(schedule=None)
def sharing():
    with spark_session(environment=old_six) as session:

        @task.spark_connect(session=session)
        def leaves(spark):
            spark.range(3).createTempView("left_here")
            return seen(spark)

        @task.spark_connect(session=session, environment=old_six)
        def finds(spark, number):
            return [number, spark.table("left_here").count(), seen(spark), spark.session_id]

        @task.spark_connect(session=session, environment=VenvEnvironment(["six==1.16.0", "pyarrow"]))
        def means_another_environment(spark):
            return 1

        leaves() >> [finds.expand(number=[1, 2]), means_another_environment()]

    with spark_session("fragile", environment=old_six, on_lost="reopen") as fragile:

        @task
        def lose(opened):
            SparkConnectHook("sparkdeps_default").close_shared_session(SharedSession.from_dict(opened))

        @task.spark_connect(session=fragile)
        def goes_on(spark):
            return [seen(spark), spark.session_id]

        lose(fragile) >> goes_on()


sharing()
