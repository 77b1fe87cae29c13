"""A Spark Connect server on this machine, for development, demos and tests."""

from airflow_provider_sparkdeps.spark.embedded.server import EmbeddedServer, is_embedded_master

__all__ = ["EmbeddedServer", "is_embedded_master"]
