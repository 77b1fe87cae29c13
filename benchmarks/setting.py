"""What all sections share: packages, work directories, and the programs that we compare with (the peers)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from airflow_provider_sparkdeps.environments.uv import uv_binary

ROOT = Path(__file__).parent.parent
PACKAGES = ("numpy", "pandas<3", "pyarrow", "scikit-learn")
MASTER = "local-cluster[2,1,1024]"
HOME = ROOT / ".bench"
PEERS = HOME / "peers" / "bin"
_VERSIONS = (
    "import json; from importlib.metadata import version; names = ('cluster-pack', 'conda-pack', 'pex', 'venv-pack'); "
    "print(json.dumps({name: version(name) for name in names}))"
)


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    """Create a work directory on the disk of this checkout, and remove it afterwards."""
    HOME.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="work-", dir=HOME))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def environ(**extra: str) -> dict[str, str]:
    """Return environment variables with the peers' programs on PATH, and a cache for pex that stays."""
    found = {"PATH": f"{PEERS}{os.pathsep}{os.environ['PATH']}", "PEX_ROOT": str(HOME / "pex-root")}
    return {**os.environ, **found, **extra}


def run(command: list[str | Path], *, cwd: Path | None = None, **extra: str) -> str:
    """Run a program of a peer and return its output; exit with its error output if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environ(**extra), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))[:200]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def seconds_of(call: str, *, cwd: Path, **extra: str) -> float:
    """Return the seconds of a statement in the peers' Python, without those of its start and first import."""
    code = f"{call.partition(';')[0]}\nimport time\nstart = time.perf_counter()\n{call.partition(';')[2].strip()}\n"
    printed = run([PEERS / "python", "-c", f"{code}print(time.perf_counter() - start)"], cwd=cwd, **extra)
    return float(printed.split()[-1])


@cache
def peer_versions() -> dict[str, str]:
    """Return the installed versions of the peers."""
    versions: dict[str, str] = json.loads(run([PEERS / "python", "-c", _VERSIONS]))
    return versions


def plain_venv(target: Path) -> Path:
    """Create a virtualenv of the packages with venv and pip."""
    run([sys.executable, "-m", "venv", target])
    run([target / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES])
    return target


def conda_prefix(directory: Path) -> Path:
    """Create a conda prefix: Python from a local channel, since there may be no public one; packages from pip."""
    import asyncio

    import rattler

    from tests.support.conda_channel import MINOR, make_channel

    channel, prefix = make_channel(directory / "channel"), directory / "conda"

    async def install() -> None:
        records = await rattler.solve([channel], ["cheese=1.0", f"python {MINOR}.*"])
        await rattler.install(records, prefix, show_progress=False)

    asyncio.run(install())
    run([uv_binary(), "pip", "install", "--quiet", "--python", prefix / "bin" / "python", *PACKAGES])
    return prefix
