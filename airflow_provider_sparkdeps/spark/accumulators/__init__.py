"""Accumulators on Spark Connect: UDFs add to them on executors, and the task's callable reads them."""

from airflow_provider_sparkdeps.spark.accumulators.accumulator import Accumulator, Accumulators
from airflow_provider_sparkdeps.spark.accumulators.distinct import ApproxCountDistinct
from airflow_provider_sparkdeps.spark.accumulators.initial_values import decode_accumulators
from airflow_provider_sparkdeps.spark.accumulators.kinds import CounterOf, ListOf, Max, Min, SetOf, Sum
from airflow_provider_sparkdeps.spark.accumulators.param import WithParam

__all__ = [
    "Accumulator",
    "Accumulators",
    "ApproxCountDistinct",
    "CounterOf",
    "ListOf",
    "Max",
    "Min",
    "SetOf",
    "Sum",
    "WithParam",
    "decode_accumulators",
]
