"""A local conda channel, and a function that builds environments from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.conda_builds import Builder
from ...support.conda_channel import make_channel


@pytest.fixture(scope="package", autouse=True)
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty package cache for rattler, instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("rattler")
        patch.setenv("RATTLER_CACHE_DIR", str(cache))
        yield cache


@pytest.fixture(scope="package")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a channel with the packages of `make_channel`."""
    return make_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture
def build(channel: str, tmp_path: Path) -> Builder:
    return Builder(channel, tmp_path)
