"""Settings and connections of Airflow: where archives are, and the logins of private indexes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_sparkdeps import configuration
from airflow_provider_sparkdeps.configuration import archive_store, login_from_connection, logins_for
from airflow_provider_sparkdeps.environments import Login, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

HERE = "https://pypi.example.com/simple"


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    secrets: list[str] = []
    monkeypatch.setattr(configuration, "mask_secret", secrets.append)
    return secrets


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": HERE}, HERE),
        ({"host": f"{HERE}/"}, f"{HERE}/"),
        ({"host": "pypi.example.com", "schema": "simple"}, HERE),
        ({"host": "pypi.example.com", "schema": "api/pypi/simple"}, "https://pypi.example.com/api/pypi/simple"),
        ({"host": "pypi.example.com", "schema": "http", "port": 8080}, "http://pypi.example.com:8080"),
        ({"host": "pypi.example.com", "port": 8443, "schema": "simple"}, "https://pypi.example.com:8443/simple"),
        ({"host": "pypi.example.com", "extra": json.dumps({"url": HERE})}, HERE),
    ],
)
def test_the_address_is_what_the_connection_says(fields: dict[str, object], url: str, masked: list[str]) -> None:
    connection = Connection(conn_id="ours", conn_type="http", login="me", password="hunter2", **fields)
    assert login_from_connection(connection) == Login(url, "me", "hunter2")
    assert masked == ["hunter2"]


def test_a_login_in_the_address_is_taken_out_of_it(masked: list[str]) -> None:
    host = "https://me:hunter%402@pypi.example.com:8443/simple"
    login = login_from_connection(Connection(conn_id="ours", conn_type="http", host=host))
    assert login == Login("https://pypi.example.com:8443/simple", "me", "hunter@2")
    assert masked == ["hunter@2"]


@pytest.mark.parametrize("host", [None, "", "ftp://x/y", "https://", "http://[::1"])
def test_a_connection_that_leads_nowhere_is_refused(host: str | None, masked: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="connection 'ours' doesn't say where its index is"):
        login_from_connection(Connection(conn_id="ours", conn_type="http", host=host, password="hunter2"))


def test_an_environments_connections_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps({"conn_type": "http", "host": HERE, "password": "hunter2"}))
    assert logins_for(VenvEnvironment(["six"], index_conn_id="ours")) == {"ours": Login(HERE, "", "hunter2")}
    assert logins_for(VenvEnvironment(["six"])) == {}


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
def test_others_read_the_archive_store_by_what_its_connection_signs_and_never_see_that(
    monkeypatch: pytest.MonkeyPatch, conn_id: str, fs: Any, address: str
) -> None:
    attach("memory", conn_id=conn_id, fs=fs)
    monkeypatch.setenv("AIRFLOW__SPARKDEPS__ARCHIVE_STORE", "memory://team/a")
    monkeypatch.setenv("AIRFLOW__SPARKDEPS__ARCHIVE_STORE_CONN_ID", conn_id)
    archive: Any = SimpleNamespace(key="key", payload="env")
    assert archive_store().uri(archive, expiration=60) == address
