"""Fixtures for all tests: a Spark Connect server with two executors, an Airflow that uses it, a package index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.local_airflow import LocalAirflow
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from .support.executors import stop_python_daemons
from .support.package_index import PASSWORD, Index, make_wheel, serve


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that `make unit` skips, and run tests that share fixtures (of a file, or Airflow) in one process."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        needs_airflow = "airflow" in fixtures or "local_airflow" in item.path.parts
        if needs_airflow or fixtures & {"server", "own_server", "token_server"}:
            item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.xdist_group("airflow" if needs_airflow else item.location[0]))


_servers: list[EmbeddedServer] = []


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A Spark Connect server with two executor processes. Tests that break a server start another one."""
    with EmbeddedServer("local-cluster[2,1,1024]") as running:
        _servers.append(running)
        yield running
        _servers.clear()


@pytest.fixture(scope="module", autouse=True)
def _memory() -> Iterator[None]:
    """Each session leaves a daemon of 40 MB on each executor. Those of hundreds of sessions need too much memory."""
    yield
    for running in _servers:
        stop_python_daemons(running)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """A private package index with a password and one package, `ours-only`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    make_wheel(tmp_path / "served", "ours-only", "1.0")
    with serve(Index(tmp_path / "served", "me", PASSWORD)) as running:
        yield running


@pytest.fixture(scope="session")
def tokens() -> tuple[str, str]:
    """The token of `token_server`, and a wrong one."""
    return "right-token-5c1f0e", "wrong-token-77aa31"


@pytest.fixture(scope="session")
def token_server(tokens: tuple[str, str]) -> Iterator[tuple[str, int, str]]:
    """The host, port and bearer token of a server that requires this token."""
    with EmbeddedServer("local-cluster[1,1,1024]", token=tokens[0]) as running:
        yield running.host, running.port, tokens[0]


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory,
    server: EmbeddedServer,
    token_server: tuple[str, int, str],
    tokens: tuple[str, str],
) -> Iterator[LocalAirflow]:
    """An Airflow that runs the DAGs of tests/dags and of example_dags on `server`."""
    with_token = {"conn_type": "sparkdeps", "host": token_server[0], "port": token_server[1]}
    connections = {
        "sparkdeps_default": {"conn_type": "sparkdeps", "host": server.host, "port": server.port},
        "sparkdeps_by_reference": {
            "conn_type": "sparkdeps",
            "host": server.host,
            "port": server.port,
            "extra": {"delivery": "reference"},
        },
        "unreachable": {"conn_type": "sparkdeps", "host": "127.0.0.1", "port": 1, "extra": {"request_timeout": 3}},
        "right_token": {**with_token, "password": tokens[0]},
        "wrong_token": {**with_token, "password": tokens[1]},
    }
    home = tmp_path_factory.mktemp("airflow")
    for directory in (Path(__file__).parent / "dags", Path(__file__).parents[1] / "example_dags"):
        shutil.copytree(directory, home / "dags", dirs_exist_ok=True)
    # A module of the bundle that is a link out of it.
    (home / "elsewhere.py").write_text("def shout(text):\n    return text.upper() + '!'\n")
    (home / "dags" / "linked_helpers.py").symlink_to(home / "elsewhere.py")
    # The test of the conda example creates this channel.
    channel = {"SPARKDEPS_EXAMPLE_CHANNEL": (home / "channel").as_uri(), "SPARKDEPS_EXAMPLE_PACKAGE": "cheese"}
    with LocalAirflow(home, dags=home / "dags", connections=connections, environ=channel) as running:
        yield running
