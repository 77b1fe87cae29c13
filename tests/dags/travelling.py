"""Functions, objects and arguments that travel to executors, and what is said of those that do not."""

import abc
import copyreg
import functools
import threading
from collections.abc import Mapping
from enum import Enum
from typing import Protocol

import pydantic
from airflow.sdk import dag, task
from linked_helpers import shout  # type: ignore[import-not-found]

from airflow_provider_sparkdeps import CounterOf, Max, SetOf, VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator
from airflow_provider_sparkdeps.operators.spark_connect import SparkConnectPythonOperator

LOCK = threading.Lock()
six = VenvEnvironment(["six==1.16.0"])


class Named(Protocol):
    def name(self) -> str: ...


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape, Named):
    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side**2

    def name(self):
        return "square"


class Rates(Mapping[str, int]):
    def __init__(self, **rates):
        self.rates = rates

    def __getitem__(self, key):
        return self.rates[key]

    def __iter__(self):
        return iter(self.rates)

    def __len__(self):
        return len(self.rates)


class Order(pydantic.BaseModel):
    amount: int


class Handle:
    """Is pickled by the function that `copyreg` knows."""

    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()


class Client:
    """Is pickled without its lock."""

    def __init__(self, name):
        self.name = name
        self.lock = threading.Lock()

    def __reduce__(self):
        return Client, (self.name,)


copyreg.pickle(Handle, lambda handle: (Handle, (handle.name,)))
square, rates, handle, client = Square(3), Rates(de=19), Handle("handle"), Client("client")


class Reason(str, Enum):  # noqa: UP042 (what many DAGs have)
    BAD = "bad"
    WORSE = "worse"


@functools.lru_cache(maxsize=10)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def describe(n):
    order = Order(amount=n)
    return f"{square.area()} {square.name()} {rates['de']} {order.amount} {handle.name} {client.name} {fibonacci(n)}"


def greet(spark, greeting, **kwargs):
    kwargs["accumulators"]["rows"].add(1)
    return f"{greeting} {spark.range(3).count()} {kwargs['ds'] is not None}"


class Greeter:
    def __call__(self, spark, accumulators):
        from pyspark.sql.functions import udf

        spark.range(3).select(udf(lambda n: accumulators["rows"].add(n), "string")("id")).collect()
        return "called"


@dag(schedule=None)
def travelling():
    @task.spark_connect
    def objects(spark):
        from pyspark.sql.functions import udf

        frame = spark.range(7, 8, 1, 1)
        return [*frame.select(udf(describe, "string")("id"), udf(lambda n: shout(str(n)), "string")("id")).first()]

    @task
    def number(n):
        return n

    @task.spark_connect
    def upstream_list(spark, numbers):
        from pyspark.sql.functions import udf

        return [row[0] for row in spark.range(1).select(udf(lambda n: sum(numbers), "long")("id")).collect()]

    @task.spark_connect(accumulators={"reasons": CounterOf(), "seen": SetOf(), "largest": Max()})
    def values(spark, accumulators):
        import pandas as pd
        from pyspark.sql.functions import udf

        def add(n):
            accumulators["reasons"].add(Reason.BAD if n % 2 else Reason.WORSE)
            accumulators["seen"].add(float("nan"))
            accumulators["seen"].add((1, float("nan")))
            accumulators["largest"].add(pd.NA if n == 9 else n)

        spark.range(0, 10, 1, 4).select(udf(add, "string")("id")).collect()
        return len(accumulators["seen"].value)

    @task.spark_connect
    def late_binding(spark):
        from pyspark.sql import functions as F
        from pyspark.sql.functions import udf

        frame = spark.range(1)
        for name in ("a", "b"):
            frame = frame.withColumn(name, udf(lambda n: name, "string")("id"))  # noqa: B023
        for other in ("c", "d"):
            frame = frame.withColumn(other, udf(lambda n, other=other: other, "string")(F.col("id")))
        return [*frame.first()]

    @task.spark_connect
    def explained(spark):
        def send(function):
            return spark.range(1).rdd if function is None else spark.range(1).foreach(function)

        class Guard:
            lock = LOCK

        print("the callable was called")
        send(lambda row: Guard.lock)

    @task.spark_connect
    def returns_a_row(spark):
        return spark.range(3).first()

    @task.spark_connect
    def returns_a_frame_in_a_dict(spark):
        return {"frames": [spark.range(3)]}

    @task.spark_connect(environment="{{ ti.xcom_pull(task_ids='build') }}")
    def in_template(spark, accumulators=None):
        from pyspark.sql.functions import udf

        @udf("string")
        def version(n):
            import six

            return six.__version__

        return spark.range(1).select(version("id")).first()[0]

    @task.spark_connect(accumulators="{{ ti.xcom_pull(task_ids='partial', key='accumulators') }}")
    def goes_on(spark, accumulators):
        accumulators["rows"].add(10)

    objects(), upstream_list(number.expand(n=[1, 2, 3])), values(), late_binding(), explained()
    returns_a_row(), returns_a_frame_in_a_dict()
    BuildEnvironmentOperator(task_id="build", environment=six) >> in_template()
    partial = SparkConnectPythonOperator(
        task_id="partial", python_callable=functools.partial(greet, greeting="hello"), accumulators={"rows": 0}
    )
    SparkConnectPythonOperator(task_id="object", python_callable=Greeter(), accumulators={"rows": 0})
    partial >> goes_on()


travelling()
