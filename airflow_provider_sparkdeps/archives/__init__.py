"""Floor 2: built environments and where they are kept. Knows neither Airflow nor Spark."""

from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.archives.store import ArchiveStore

__all__ = ["Archive", "ArchiveStore"]
