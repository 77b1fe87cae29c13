"""What this deployment of Airflow says in `[sparkdeps]`: where archives are, and how long to wait for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath, conf

from airflow_provider_sparkdeps.archives import ArchiveStore

_SECTION = "sparkdeps"


def archive_store(root: str | None = None) -> ArchiveStore:
    """Return the archive store of this deployment.

    :param root: a directory or URL instead of `[sparkdeps] archive_store`.
    """
    chosen = root or conf.get(_SECTION, "archive_store")
    conn_id = conf.get(_SECTION, "archive_store_conn_id", fallback="") or None
    cache = Path(conf.get(_SECTION, "cache_dir"))
    place: Any = ObjectStoragePath(chosen, conn_id=conn_id) if conn_id else chosen
    return ArchiveStore(place, cache_dir=cache)


def build_timeout(given: float | None = None) -> float:
    """Return the seconds that a build may take: what the operator says, or `[sparkdeps] build_timeout`."""
    return conf.getfloat(_SECTION, "build_timeout") if given is None else given


def embedded_startup_timeout() -> float:
    """Return the seconds that an embedded Spark Connect server may take to start."""
    return conf.getfloat(_SECTION, "embedded_startup_timeout")


def default_deferrable() -> bool:
    """Return whether operators and sensors defer unless told otherwise."""
    return conf.getboolean("operators", "default_deferrable", fallback=False)
