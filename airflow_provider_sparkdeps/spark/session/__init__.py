"""Sessions on a Spark Connect server."""

from airflow_provider_sparkdeps.spark.session.session import Session
from airflow_provider_sparkdeps.spark.session.shared_session import SharedSession

__all__ = ["Session", "SharedSession"]
