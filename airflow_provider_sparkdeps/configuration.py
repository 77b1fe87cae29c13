"""The options of this provider in Airflow's configuration, section `[sparkdeps]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.sdk import ObjectStoragePath, conf

from airflow_provider_sparkdeps.archives import ArchiveStore

_SECTION = "sparkdeps"


def archive_store(root: str | None = None) -> ArchiveStore:
    """Return the archive store of this deployment.

    :param root: a directory or URL that replaces `[sparkdeps] archive_store`.
    """
    root = root or conf.get(_SECTION, "archive_store")
    conn_id = conf.get(_SECTION, "archive_store_conn_id", fallback="") or None
    path: Any = ObjectStoragePath(root, conn_id=conn_id) if conn_id else root
    return ArchiveStore(path, cache_dir=Path(conf.get(_SECTION, "cache_dir")))


def build_timeout(given: float | None = None) -> float:
    """Return the seconds that a build may take: `given`, or `[sparkdeps] build_timeout`."""
    return conf.getfloat(_SECTION, "build_timeout") if given is None else given


def embedded_startup_timeout() -> float:
    """Return the seconds that an embedded Spark Connect server may take to start."""
    return conf.getfloat(_SECTION, "embedded_startup_timeout")


def default_deferrable() -> bool:
    """Return whether operators and sensors are deferrable by default, from `[operators] default_deferrable`."""
    return conf.getboolean("operators", "default_deferrable", fallback=False)
