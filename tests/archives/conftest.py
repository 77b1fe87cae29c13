"""A store with the archive of SIX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore

from ..support.builders import SIX


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Archive]:
    """A store and the archive in it. Tests must not change it."""
    root = tmp_path_factory.mktemp("store")
    return root, ArchiveStore(root).build(SIX, timeout=300)


@pytest.fixture
def copied(built: tuple[Path, Archive], tmp_path: Path) -> tuple[Path, Archive]:
    """A copy of the store for one test, and the archive in it."""
    return Path(shutil.copytree(built[0], tmp_path / "store")), built[1]
