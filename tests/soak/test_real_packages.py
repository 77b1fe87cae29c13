"""Large and compiled packages, built, attached and run on two executors."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

pytestmark = pytest.mark.soak

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def large_server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer("local-cluster[2,1,2048]") as running:
        yield running


def build(store: Path, *requirements: str, **environ: str) -> tuple[Archive, int]:
    """Build in a subprocess; return the archive and the peak memory of its processes, in bytes."""
    command = [sys.executable, "-m", "airflow_provider_sparkdeps.cli", "build", "--store", str(store), *requirements]
    subprocess.run(command, env={**os.environ, **environ}, check=True, timeout=1800)
    (archive,) = ArchiveStore(store).list_archives()
    return archive, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def run(server: EmbeddedServer, store: Path, archive: Archive, function: Callable[[int], str]) -> set[str]:
    with Session(Endpoint(host=server.host, port=server.port)) as session:
        attach(session, archive, ArchiveStore(store))
        call = udf(function, "string")
        return {row[0] for row in session.spark.range(0, 4, 1, 4).select(call("id")).collect()}


def test_an_environment_of_a_gigabyte_is_built_in_little_memory_and_runs(
    large_server: EmbeddedServer, tmp_path: Path
) -> None:
    """`SPARKDEPS_SOAK_TORCH` may contain another requirement, e.g. of a CPU build in `UV_FIND_LINKS`."""
    archive, peak = build(tmp_path, os.environ.get("SPARKDEPS_SOAK_TORCH", "torch"), "pyarrow", "numpy")
    print(f"{archive.contents.unpacked_size / MEGABYTE:.0f} MB unpacked, peak memory {peak / MEGABYTE:.0f} MB")
    assert archive.contents.unpacked_size > 700 * MEGABYTE
    assert peak < 300 * MEGABYTE

    def multiply(_: int) -> str:
        import torch

        return str(float(torch.ones(3, 3).matmul(torch.ones(3, 3)).sum()))

    assert run(large_server, tmp_path, archive, multiply) == {"27.0"}


def test_compiled_packages_run_wheels_and_one_built_from_source(large_server: EmbeddedServer, tmp_path: Path) -> None:
    packages = ("scikit-learn", "pyarrow", "polars", "lightgbm", "markupsafe")
    archive, _ = build(tmp_path, *packages, UV_NO_BINARY_PACKAGE="markupsafe")

    def use(_: int) -> str:
        import lightgbm
        import markupsafe._speedups
        import numpy as np
        import polars
        import pyarrow
        from sklearn.linear_model import LinearRegression

        x = np.arange(20.0).reshape(-1, 1)
        slope = LinearRegression().fit(x, 3 * x.ravel()).coef_[0]
        trees = lightgbm.LGBMRegressor(n_estimators=2, min_child_samples=1, verbose=-1).fit(x, x.ravel())
        total = polars.DataFrame({"a": [1, 2, 3]})["a"].sum()
        return f"{slope:.1f} {trees.n_features_} {total} {pyarrow.array([1]).type} {markupsafe.escape('<')}"

    assert run(large_server, tmp_path, archive, use) == {"3.0 1 6 int64 &lt;"}
