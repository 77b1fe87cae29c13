"""Broadcast variables on Spark Connect."""

from airflow_provider_sparkdeps.spark.broadcast.variable import Broadcast, broadcast

__all__ = ["Broadcast", "broadcast"]
