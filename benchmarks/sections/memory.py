"""Peak memory of a process that builds and attaches an archive of 2 GB."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from benchmarks.measure import ROUNDS, Claim, Outcome, log
from benchmarks.setting import MASTER, ROOT, work_directory

GIGABYTES = float(os.environ.get("BENCH_GIGABYTES", "2"))
_FILES = 20
_TIME = "/usr/bin/time"
_WORK = """
import sys
from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.attach import attach
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
store, venv, host, port = sys.argv[1:]
store = ArchiveStore(store)
archive = store.build(VenvEnvironment.from_prefix(venv), timeout=1800, progress=lambda _: None)
with Session(Endpoint(host=host, port=int(port)), on_progress=lambda _: None) as session:
    attach(session, archive, store)
    from pyspark.sql.functions import udf
    seen = udf(lambda _: __import__("sys").prefix, "string")
    (row,) = session.spark.range(1).select(seen("id")).collect()
    assert archive.short_digest in row[0], row
print(archive.size)
"""


def run() -> Outcome:
    """Build and attach in a separate process, and measure its peak memory."""
    peaks, sizes = [], []
    with work_directory() as directory:
        venv = _large_venv(directory / "venv")
        for number in range(max(1, ROUNDS // 5)):
            with EmbeddedServer(MASTER, work_dir=directory / f"server{number}") as server:
                store = directory / f"store{number}"
                command: list[str | Path] = [sys.executable, "-c", _WORK, store, venv, server.host, str(server.port)]
                peak, size = _peak(command)
            log(f"peak {peak:.0f} MB, for an archive of {size / 1e6:.0f} MB")
            peaks.append(peak)
            sizes.append(size / 1e6)
    how = f"{_TIME} -v" if Path(_TIME).exists() else "getrusage(RUSAGE_CHILDREN)"
    return Outcome(
        {"peak": peaks, "archive": sizes},
        (Claim(f"peak memory, building and attaching {GIGABYTES:g} GB", "peak", at_most=300),),
        units={"peak": "MB", "archive": "MB"},
        notes=(f"measured by {how}; one run, since all runs give the same result.",),
    )


def _large_venv(target: Path) -> Path:
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, target], check=True)
    subprocess.run([uv_binary(), "pip", "install", "-q", "--python", target / "bin/python", "pyarrow"], check=True)
    (package,) = target.glob("lib/python3.*/site-packages")
    (package / "ballast").mkdir()
    for number in range(_FILES):
        with (package / "ballast" / f"weights{number}.bin").open("wb") as file:
            for _ in range(int(GIGABYTES * 1000 / _FILES)):
                file.write(os.urandom(1_000_000))
    return target


def _peak(command: list[str | Path]) -> tuple[float, float]:
    """Return the peak memory in MB, and the last number that the command printed."""
    has_time = Path(_TIME).exists()
    done = subprocess.run(
        [_TIME, "-v", *command] if has_time else command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    reported = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
    kilobytes = int(reported[1]) if reported else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return kilobytes * 1024 / 1e6, float(done.stdout.split()[-1])
