"""Tasks that fail, each with a different error."""

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator
from airflow_provider_sparkdeps.sensors.environment import EnvironmentSensor

impossible = VenvEnvironment(["sparkdeps-no-such-package==1.0"])


@dag(schedule=None)
def failing():
    @task.spark_connect
    def returns_a_frame(spark):
        return spark.range(3)

    @task.spark_connect
    def returns_an_object(spark):
        class Local:
            pass

        return Local()

    @task.spark_connect(spark_conn_id="unreachable")
    def unreachable(spark):
        return 1

    @task.spark_connect(spark_conn_id="wrong_token")
    def wrong_token(spark):
        return 1

    @task.spark_connect(spark_conn_id="right_token")
    def right_token(spark, accumulators=None):
        return spark.range(3).count()

    @task.spark_connect(accumulators={"rows": "{{ 'many' }}"})
    def not_a_number(spark, accumulators):
        return 1

    returns_a_frame(), returns_an_object(), unreachable(), wrong_token(), right_token(), not_a_number()
    BuildEnvironmentOperator(task_id="build", environment=impossible)
    EnvironmentSensor(task_id="wait", environment=impossible, deferrable=True, poke_interval=0.5, timeout=120)
    EnvironmentSensor(task_id="poke", environment=impossible, deferrable=False, poke_interval=1, timeout=120)


failing()
