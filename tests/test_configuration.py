"""The options of the section `[sparkdeps]`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_sparkdeps.configuration import archive_store

HERE = "https://pypi.example.com/simple"


class FakeObjectStore(MemoryFileSystem):
    """A fake of a file system that signs, such as s3fs."""

    cachable = False

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        return f"https://objects.example.org/{path.lstrip('/')}?Expires={expiration}&Signature=5ec7e7"


@pytest.mark.parametrize(
    ("conn_id", "fs", "address"),
    [
        ("signs", FakeObjectStore(), "https://objects.example.org/team/a/key/env?Expires=60&Signature=5ec7e7"),
        ("does_not", MemoryFileSystem(), "memory:///team/a/key/env"),
    ],
)
def test_the_archive_store_signs_uris_with_its_connection(
    monkeypatch: pytest.MonkeyPatch, conn_id: str, fs: Any, address: str
) -> None:
    attach("memory", conn_id=conn_id, fs=fs)
    monkeypatch.setenv("AIRFLOW__SPARKDEPS__ARCHIVE_STORE", "memory://team/a")
    monkeypatch.setenv("AIRFLOW__SPARKDEPS__ARCHIVE_STORE_CONN_ID", conn_id)
    archive: Any = SimpleNamespace(key="key", payload="env")
    assert archive_store().uri(archive, expiration=60) == address
