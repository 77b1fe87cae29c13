"""Accumulators on Spark Connect."""

from airflow_provider_sparkdeps.spark.accumulators.accumulator import Accumulator, Accumulators

__all__ = ["Accumulator", "Accumulators"]
