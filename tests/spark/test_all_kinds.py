"""One scenario for all kinds of environments and ways to create them: a UDF on executors."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import (
    CondaEnvironment,
    Environment,
    PexEnvironment,
    VenvEnvironment,
)
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

from ..support.conda_channel import make_channel

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
# Neither this process nor the executors have humanize installed.
PACKAGES = ["humanize==4.12.*"]
OTHERS = ["humanize==4.11.*"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Two executors with Python on PATH, which PEX environments need."""
    directory = tmp_path_factory.mktemp("path")
    (directory / f"python{MINOR}").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    with EmbeddedServer(environ={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}) as running:
        yield running


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArchiveStore:
    return ArchiveStore(tmp_path_factory.mktemp("store"))


VARIABLES = {"OMP_NUM_THREADS": "1", "GREETING": 'it\'s "$HOME" \u00e4\n'}


def install(python: Path) -> None:
    subprocess.run([uv_binary(), "pip", "install", "--quiet", "--python", python, *PACKAGES], check=True)


def venv(directory: Path, channel: str) -> Environment:
    return VenvEnvironment(PACKAGES, env_vars=VARIABLES)


def venv_from_file(directory: Path, channel: str) -> Environment:
    (directory / "requirements.txt").write_text("# for scoring\n" + "\n".join(PACKAGES))
    return VenvEnvironment.from_file(directory / "requirements.txt")


def venv_from_prefix(directory: Path, channel: str) -> Environment:
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, directory / "venv"], check=True)
    install(directory / "venv/bin/python")
    return VenvEnvironment.from_prefix(directory / "venv")


def conda(directory: Path, channel: str) -> Environment:
    return CondaEnvironment(["cheese=1.0", "globe"], channels=[channel], pip=PACKAGES, env_vars=VARIABLES)


def conda_from_file(directory: Path, channel: str) -> Environment:
    lines = [
        f"channels: ['{channel}']",
        "dependencies:",
        "  - cheese=1.0",
        "  - pip:",
        *(f"    - {p}" for p in PACKAGES),
    ]
    (directory / "environment.yml").write_text("\n".join(lines))
    return CondaEnvironment.from_file(directory / "environment.yml")


def conda_from_prefix(directory: Path, channel: str) -> Environment:
    import rattler

    async def make() -> None:
        records = await rattler.solve([channel], ["cheese=1.0", f"python {MINOR}.*"])
        await rattler.install(records, directory / "conda", show_progress=False)

    asyncio.run(make())
    install(directory / "conda/bin/python")
    return CondaEnvironment.from_prefix(directory / "conda")


def pex(directory: Path, channel: str) -> Environment:
    return PexEnvironment(PACKAGES, env_vars=VARIABLES)


def pex_from_pex(directory: Path, channel: str) -> Environment:
    subprocess.run([sys.executable, "-m", "pex", *PACKAGES, "-o", directory / "app.pex"], check=True)
    return PexEnvironment.from_pex(directory / "app.pex")


def humanize_on_executors(session: Session) -> set[tuple[str, ...]]:
    """The version of humanize, its result, the executor's directory and humanize's file."""

    @udf("string")
    def found(_: int) -> str:
        import humanize

        return f"{humanize.__version__}|{humanize.intword(10**6)}|{Path.cwd().parent}|{humanize.__file__}"

    rows = session.spark.range(0, 8, 1, 4).select(found("id")).collect()
    return {tuple(row[0].split("|")) for row in rows}


def variables_on_executors(session: Session) -> list[dict[str, str]]:
    """The environment variables of Python workers."""

    @udf("map<string,string>")
    def variables(_: int) -> dict[str, str]:
        return dict(os.environ)

    return [row[0] for row in session.spark.range(0, 8, 1, 4).select(variables("id")).collect()]


@pytest.mark.parametrize(
    "create",
    [
        pytest.param(create, id=create.__name__, marks=[pytest.mark.soak] if "_" in create.__name__ else [])
        for create in (
            *(venv, venv_from_file, venv_from_prefix),
            *(conda, conda_from_file, conda_from_prefix),
            *(pex, pex_from_pex),
        )
    ],
)
def test_udfs_use_packages_of_the_environment(
    create: Callable[[Path, str], Environment],
    tmp_path: Path,
    channel: str,
    store: ArchiveStore,
    server: EmbeddedServer,
) -> None:
    archive = store.build(create(tmp_path, channel), timeout=300)
    with Session(Endpoint(host=server.host, port=server.port)) as session:
        attach(session, archive, store)
        found = humanize_on_executors(session)
        variables = variables_on_executors(session)
    if "_" not in create.__name__:
        assert all(seen.items() >= VARIABLES.items() for seen in variables)
    if create is conda:
        # What the activation of the package globe sets.
        assert all(seen["GLOBE_HOME"].endswith(f"/{archive.short_digest}/share/globe") for seen in variables)
        assert all(Path(seen["GLOBE_HOME"]).is_dir() for seen in variables)
    assert len(found) == 2, "one file on each executor"
    for version, unit, executor, file in found:
        assert version.startswith("4.12.")
        assert unit == "1.0 million"
        assert file.startswith(f"{executor}/sparkdeps/")


def test_a_running_session_switches_between_kinds_and_back(
    channel: str, store: ArchiveStore, server: EmbeddedServer
) -> None:
    kinds: dict[str, Archive] = {
        "conda": store.build(CondaEnvironment(["cheese=1.0"], channels=[channel], pip=PACKAGES), timeout=300),
        "venv": store.build(VenvEnvironment(OTHERS), timeout=300),
        "pex": store.build(PexEnvironment(PACKAGES), timeout=300),
    }
    with Session(Endpoint(host=server.host, port=server.port)) as session:
        for kind, version in (
            ("conda", "4.12."),
            ("venv", "4.11."),
            ("pex", "4.12."),
            ("venv", "4.11."),
            ("conda", "4.12."),
        ):
            attach(session, kinds[kind], store)
            assert {found[0][: len(version)] for found in humanize_on_executors(session)} == {version}
