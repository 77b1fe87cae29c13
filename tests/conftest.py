"""What all tests share: one Airflow, and one Spark Connect server with two executors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.local_airflow import LocalAirflow
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A Spark Connect server with two executor processes; tests that break it start their own."""
    with EmbeddedServer("local-cluster[2,1,1024]") as running:
        yield running


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """An Airflow that runs the DAGs of tests/dags."""
    dags = Path(__file__).parent / "dags"
    with LocalAirflow(tmp_path_factory.mktemp("airflow"), dags=dags, connections={}) as running:
        yield running
