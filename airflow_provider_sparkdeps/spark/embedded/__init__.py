"""A Spark Connect server started by this process."""

from airflow_provider_sparkdeps.spark.embedded.server import EmbeddedServer, is_embedded_master

__all__ = ["EmbeddedServer", "is_embedded_master"]
