"""What all sections share: the packages, places to work in, and the peers' programs."""

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
def room() -> Iterator[Path]:
    """Give a directory to work in, on the disk of this checkout, and remove it afterwards."""
    HOME.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="work-", dir=HOME))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def environ(**extra: str) -> dict[str, str]:
    """Return environment variables with the peers' programs on PATH, and their caches in one warm place."""
    found = {"PATH": f"{PEERS}{os.pathsep}{os.environ['PATH']}", "PEX_ROOT": str(HOME / "pex-root")}
    return {**os.environ, **found, **extra}


def run(command: list[str | Path], *, cwd: Path | None = None, **extra: str) -> str:
    """Run a peer's program, and return what it prints; its complaints are shown if it fails."""
    done = subprocess.run(command, cwd=cwd, env=environ(**extra), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))[:200]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def seconds_of(call: str, *, cwd: Path, **extra: str) -> float:
    """Return how long a statement takes in the peers' Python; starting it and its imports don't count."""
    code = f"{call.partition(';')[0]}\nimport time\nstart = time.perf_counter()\n{call.partition(';')[2].strip()}\n"
    printed = run([PEERS / "python", "-c", f"{code}print(time.perf_counter() - start)"], cwd=cwd, **extra)
    return float(printed.split()[-1])


@cache
def peer_versions() -> dict[str, str]:
    """Return the versions of the peers."""
    versions: dict[str, str] = json.loads(run([PEERS / "python", "-c", _VERSIONS]))
    return versions


def plain_venv(target: Path) -> Path:
    """Make a virtualenv of the packages, as everybody does."""
    run([sys.executable, "-m", "venv", target])
    run([target / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES])
    return target


def conda_prefix(directory: Path) -> Path:
    """Make a conda prefix: Python from a channel made here, since there may be no public one; the packages by pip."""
    import asyncio

    import rattler

    sys.path.insert(0, str(ROOT / "tests"))
    from tests.support.conda_channel import MINOR, make_channel  # type: ignore[import-not-found]

    channel, prefix = make_channel(directory / "channel"), directory / "conda"

    async def install() -> None:
        records = await rattler.solve([channel], ["cheese=1.0", f"python {MINOR}.*"])
        await rattler.install(records, prefix, show_progress=False)

    asyncio.run(install())
    run([uv_binary(), "pip", "install", "--quiet", "--python", prefix / "bin" / "python", *PACKAGES])
    return prefix
