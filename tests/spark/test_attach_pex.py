"""PEX environments on real executors, which bring the Python that they need."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import pandas_udf, udf

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys._base_executable)  # type: ignore[attr-defined]

Use = Callable[[Session, Environment], Archive]


@pytest.fixture(scope="module")
def use(tmp_path_factory: pytest.TempPathFactory) -> Use:
    """Builds an environment, and attaches it to a session."""
    store = ArchiveStore(tmp_path_factory.mktemp("store"))

    def use(session: Session, environment: Environment) -> Archive:
        archive = store.build(environment, timeout=300)
        attach(session.spark, archive, payload=lambda: store.fetch(archive))
        return archive

    return use


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Two executors that have this Python on PATH, and six in its site-packages."""
    directory = tmp_path_factory.mktemp("path")
    subprocess.run([BASE, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    for name in ("six", "leaked"):
        (directory / f"venv/lib/python{MINOR}/site-packages/{name}.py").write_text("__version__ = 'of the executor'")
    environ = {**os.environ, "PATH": f"{directory / 'venv/bin'}:{os.environ['PATH']}"}
    with EmbeddedServer("local-cluster[2,1,1024]", environ=environ) as running:
        yield running


@pytest.fixture(scope="module")
def with_pandas() -> PexEnvironment:
    return PexEnvironment(["six==1.16.0", "tabulate==0.9.0", "pandas<3", "pyarrow"])


@pytest.fixture(scope="module")
def six15(tmp_path_factory: pytest.TempPathFactory) -> PexEnvironment:
    """A file that somebody made with pex, a zipapp."""
    file = tmp_path_factory.mktemp("pex") / "six15.pex"
    subprocess.run([sys.executable, "-m", "pex", "six==1.15.0", "-o", file], check=True)
    return PexEnvironment.from_file(file)


def open_session(server: EmbeddedServer) -> Session:
    return Session(Endpoint(host=server.host, port=server.port))


def six_on_executors(session: Session) -> dict[str, str]:
    """The version of six that each executor sees, by the executor's directory."""

    @udf("string", useArrow=False)
    def six(_: int) -> str:
        import time

        import six

        time.sleep(0.3)
        return f"{Path.cwd().parent} {six.__version__}"

    rows = session.spark.range(2, numPartitions=2).select(six("id")).collect()
    return dict(row[0].rsplit(" ", 1) for row in rows)


def executors(server: EmbeddedServer) -> list[Path]:
    return sorted(path for path in (server.work_dir / "spark/work").glob("app-*/*") if path.is_dir())


def on_both(server: EmbeddedServer, version: str) -> dict[str, str]:
    return {str(path): version for path in executors(server)}


def test_udfs_run_in_the_pex_on_both_executors(server: EmbeddedServer, use: Use, with_pandas: PexEnvironment) -> None:
    with open_session(server) as session:
        archive = use(session, with_pandas)
        assert six_on_executors(session) == on_both(server, "1.16.0")

        @pandas_udf("string")
        def table(ids: pd.Series) -> pd.Series:
            import tabulate

            return ids.map(lambda number: f"{tabulate.__file__} {tabulate.tabulate([[number]])}")

        rows = session.spark.range(4, numPartitions=2).select(table("id")).collect()
        assert {row[0].split("\n")[1] for row in rows} == {"0", "1", "2", "3"}
        homes = {path / "sparkdeps" / archive.digest12 for path in executors(server)}
        assert {Path(row[0]).parents[3] for row in rows} <= {home / "app.pex" for home in homes}
