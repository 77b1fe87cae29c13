"""Fixtures of servers and sessions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

from ..support.relays import Authority
from ..support.servers import OwnServer


@pytest.fixture
def endpoint(server: EmbeddedServer) -> Endpoint:
    return Endpoint(host=server.host, port=server.port)


@pytest.fixture
def session(endpoint: Endpoint) -> Iterator[Session]:
    with Session(endpoint) as session:
        yield session


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    with OwnServer() as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")
