"""A session that the tests of a file share, since each new one starts Python on two executors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_sparkdeps.spark.accumulators import Accumulator
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session

from ...support.executors import open_session


@pytest.fixture(scope="module")
def _of_file(server: EmbeddedServer) -> Iterator[Session]:
    with open_session(server) as session:
        yield session


@pytest.fixture
def shared(_of_file: Session) -> Iterator[Session]:
    """A session without accumulators, cached DataFrames and settings of another test.

    For tests that neither define something in SQL nor break the session: it keeps that in mind.
    """
    conf = _of_file.spark.conf
    before = conf.getAll
    yield _of_file
    _of_file.spark.catalog.clearCache()
    after = conf.getAll
    for name in after.keys() - before.keys():
        conf.unset(name)
    for name, value in before.items() - after.items():
        conf.set(name, value)


@pytest.fixture
def count(shared: Session) -> Accumulator:
    """A new accumulator of the shared session."""
    return shared.accumulator(f"count_{len(shared.accumulator_values)}")
