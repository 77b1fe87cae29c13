"""Built environments and the store that keeps them."""

from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.archives.status import BuildStatus
from airflow_provider_sparkdeps.archives.store import ArchiveStore

__all__ = ["Archive", "ArchiveStore", "BuildStatus"]
