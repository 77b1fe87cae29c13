"""An index that serves a package of every name that is local in the tests: a stranger, which must not be installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.package_index import Index, make_wheel, serve

VERSIONS = ("1.0", "1.5", "2.0", "3.0a1")


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Index, Path]]:
    """The index, and a cache of uv."""
    root = tmp_path_factory.mktemp("strangers")
    for version in VERSIONS:
        for name in ("ant", "bee", "cow"):
            make_wheel(root / "wheels", name, version)
        make_wheel(root / "wheels", "dog", version, requires=("bee>=1",))
    for name in ("app", "lib", "sib", "root", *(f"member-{number}" for number in range(4))):
        make_wheel(root / "wheels", name, "99")
    with serve(Index(root / "wheels")) as running:
        yield running, root / "cache"


@pytest.fixture
def strangers(served: tuple[Index, Path], monkeypatch: pytest.MonkeyPatch) -> Index:
    """The index, which uv asks before any other."""
    index, cache = served
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    monkeypatch.setenv("UV_INDEX", index.url)
    index.names_asked()
    return index
