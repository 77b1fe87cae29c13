"""PEX environments on real executors, which provide the Python."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql.functions import pandas_udf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.environments.pythons import find_python
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError, SessionError
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.delivery.py_files import add_py_files
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.executors import on_executors, open_session

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys._base_executable)  # type: ignore[attr-defined]

Use = Callable[[Session, Environment], Archive]


@pytest.fixture(scope="module")
def use(tmp_path_factory: pytest.TempPathFactory) -> Use:
    """Build an environment and attach it to a session."""
    store = ArchiveStore(tmp_path_factory.mktemp("store"))

    def use(session: Session, environment: Environment) -> Archive:
        archive = store.build(environment, timeout=300)
        attach(session, archive, store)
        return archive

    return use


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Two executors with this Python on PATH, whose site-packages contain six and another module."""
    directory = tmp_path_factory.mktemp("path")
    subprocess.run([BASE, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    for name in ("six", "leaked"):
        (directory / f"venv/lib/python{MINOR}/site-packages/{name}.py").write_text("__version__ = 'from the executor'")
    subprocess.run([directory / f"venv/bin/python{MINOR}", "-c", "import leaked"], check=True)
    environ = {**os.environ, "PATH": f"{directory / 'venv/bin'}:{os.environ['PATH']}"}
    with EmbeddedServer("local-cluster[2,1,1024]", environ=environ) as running:
        yield running


@pytest.fixture(scope="module")
def with_pandas() -> PexEnvironment:
    return PexEnvironment(["six==1.16.0", "tabulate==0.9.0", "pandas<3", "pyarrow"])


@pytest.fixture(scope="module")
def six15(tmp_path_factory: pytest.TempPathFactory) -> PexEnvironment:
    """A finished PEX file: a zipapp that creates a venv from itself when it first runs."""
    file = tmp_path_factory.mktemp("pex") / "six15.pex"
    subprocess.run([sys.executable, "-m", "pex", "six==1.15.0", "--venv", "-o", file], check=True)
    return PexEnvironment.from_pex(file)


def six_on_executors(session: Session) -> dict[str, str]:
    """The version of six on each executor, by the executor's directory."""

    def six() -> str:
        import six

        return f"{Path.cwd().parent} {six.__version__}"

    results = (result.rpartition(" ") for result in on_executors(session, six))
    return {directory: version for directory, _, version in results}


def executors(server: EmbeddedServer) -> list[Path]:
    return sorted(path for path in (server.work_dir / "spark/work").glob("app-*/*") if path.is_dir())


def both(server: EmbeddedServer, version: str) -> dict[str, str]:
    return {str(path): version for path in executors(server)}


@pytest.mark.soak
def test_udfs_run_in_the_pex_on_both_executors(server: EmbeddedServer, use: Use, with_pandas: PexEnvironment) -> None:
    with open_session(server) as session:
        archive = use(session, with_pandas)
        assert six_on_executors(session) == both(server, "1.16.0")

        @pandas_udf("string")  # type: ignore[untyped-decorator]
        def table(ids: pd.Series) -> pd.Series:
            import tabulate

            return ids.map(lambda number: f"{tabulate.__file__} {tabulate.tabulate([[number]])}")

        rows = session.spark.range(4, numPartitions=2).select(table("id")).collect()
        assert {row[0].split("\n")[1] for row in rows} == {"0", "1", "2", "3"}
        homes = {path / "sparkdeps" / archive.short_digest for path in executors(server)}
        assert {Path(row[0]).parents[3] for row in rows} <= {home / "app.pex" for home in homes}


@pytest.mark.soak
def test_packages_of_the_executors_python_are_ignored(server: EmbeddedServer, use: Use, six15: PexEnvironment) -> None:
    for environment in (PexEnvironment(["six==1.16.0"]), six15):
        with open_session(server) as session:
            use(session, environment)
            assert on_executors(session, lambda: importlib.util.find_spec("leaked")) == ["None", "None"]


@pytest.mark.soak
def test_sessions_share_the_venv_that_a_pex_creates_on_an_executor(
    server: EmbeddedServer, use: Use, six15: PexEnvironment
) -> None:
    barrier = threading.Barrier(2, timeout=60)

    def run(_: int = 0, *, wait: bool = True) -> dict[str, str]:
        with open_session(server) as session:
            use(session, six15)
            if wait:
                barrier.wait()
            return six_on_executors(session)

    def unpacked() -> list[tuple[Path, int, int]]:
        digest = "[0-9a-f]" * 40
        venvs = [venv for path in executors(server) for venv in path.glob(f"sparkdeps/pex/venvs/*/{digest}/{digest}")]
        return [(venv, venv.stat().st_ino, venv.stat().st_ctime_ns) for venv in venvs]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, range(2))) == [both(server, "1.15.0")] * 2
    before = unpacked()
    assert len({venv.relative_to(server.work_dir).parts[:5] for venv, *_ in before}) == len(before) == 2
    assert run(wait=False) == both(server, "1.15.0")
    assert unpacked() == before


@pytest.mark.soak
def test_a_running_session_switches_between_pex_and_venv_and_back(
    server: EmbeddedServer, use: Use, six15: PexEnvironment, with_pandas: PexEnvironment
) -> None:
    venv = VenvEnvironment(["six==1.17.0"])
    with open_session(server) as session:
        for environment, version in (
            (with_pandas, "1.16.0"), (venv, "1.17.0"), (six15, "1.15.0"), (venv, "1.17.0"), (with_pandas, "1.16.0")
        ):  # fmt: skip
            use(session, environment)
            assert six_on_executors(session) == both(server, version)


@pytest.mark.soak
def test_a_pex_imports_py_files(server: EmbeddedServer, use: Use, six15: PexEnvironment, tmp_path: Path) -> None:
    (tmp_path / "of_the_bundle.py").write_text("answer = 42")
    for environment in (six15, PexEnvironment(["six==1.16.0"])):
        with open_session(server) as session:
            use(session, environment)
            add_py_files(session, [tmp_path / "of_the_bundle.py"])
            assert on_executors(session, lambda: importlib.import_module("of_the_bundle").answer) == ["42", "42"]


@pytest.mark.soak
def test_executors_without_the_python_are_reported_by_attach(use: Use, six15: PexEnvironment, tmp_path: Path) -> None:
    path = tmp_path / "bin"
    path.mkdir()
    for command in (command for place in ("/usr/bin", "/bin") for command in Path(place).iterdir()):
        if not command.name.startswith("python") and not (path / command.name).is_symlink():
            (path / command.name).symlink_to(command)
    with (
        EmbeddedServer("local-cluster[1,1,1024]", environ={**os.environ, "PATH": str(path)}) as server,
        open_session(server) as session,
    ):
        for environment, name in ((six15, "six15.pex"), (PexEnvironment(["six==1.16.0"]), "this PEX")):
            message = rf"{name} has no interpreter, and no python{MINOR} works on .*\. Install it on"
            with pytest.raises(SessionError, match=message):
                use(session, environment)


def test_a_pex_for_another_python_is_rejected_before_anything_is_sent(
    server: EmbeddedServer, use: Use, tmp_path: Path
) -> None:
    other = next((minor for minor in ("3.13", "3.12", "3.11") if minor != MINOR and has(minor)), None)
    if other is None:
        pytest.skip("there is only one minor version of Python on this machine")
    with (
        open_session(server) as session,
        pytest.raises(SessionError, match=rf"has Python {other}, but this task runs Python {MINOR}"),
    ):
        use(session, PexEnvironment(["six==1.16.0"], python=other))


def has(minor: str) -> bool:
    try:
        return bool(find_python(minor, uv=uv_binary(), deadline=Deadline(10, "Looking for another Python")))
    except BuildError:
        return False
