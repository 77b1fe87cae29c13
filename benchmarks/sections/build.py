"""Building an archive from requirements with warm caches, compared with the usual commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, PexEnvironment, VenvEnvironment
from benchmarks import recipe
from benchmarks.measure import Claim, Outcome, in_turns, timed
from benchmarks.setting import PACKAGES, PEERS, plain_venv, work_directory
from benchmarks.setting import run as run_peer


def run() -> Outcome:
    """Build a virtualenv and a PEX from scratch in each round."""
    with work_directory() as directory:
        figures = in_turns(
            {
                "ours": lambda: timed(_build(VenvEnvironment(PACKAGES), directory / "store")),
                "venv, pip and venv-pack": lambda: timed(_by_hand(directory)),
                "ours, as a PEX": lambda: timed(_build(PexEnvironment(PACKAGES), directory / "store")),
                "pex": lambda: timed(
                    lambda: run_peer([PEERS / "pex", *PACKAGES, "-o", directory / "pyspark_pex_env.pex"])
                ),
                "cluster-pack": lambda: timed(_cluster_pack(directory, large=False)),
                "cluster-pack, packed layout": lambda: timed(_cluster_pack(directory, large=True)),
            }
        )
    layouts = [name for name in figures if name.startswith("cluster-pack")]
    best = min(layouts, key=lambda name: sorted(figures[name])[len(figures[name]) // 2])
    return Outcome(
        figures,
        (
            Claim("build, compared with venv, pip and venv-pack", "ours", "venv, pip and venv-pack", at_least=6),
            Claim("build a PEX, compared with `pex`", "ours, as a PEX", "pex", at_least=4),
            Claim("build a PEX, compared with cluster-pack's best layout", "ours, as a PEX", best, at_most=1),
        ),
        notes=(f"cluster-pack's best layout was `{best}`.",),
    )


def _build(environment: Environment, store: Path) -> Callable[[], object]:
    shutil.rmtree(store, ignore_errors=True)
    return lambda: ArchiveStore(store).build(environment, timeout=600, progress=lambda _: None)


def _by_hand(directory: Path) -> Callable[[], object]:
    shutil.rmtree(directory / "venv", ignore_errors=True)

    def work() -> None:
        plain_venv(directory / "venv")
        recipe.pack(directory / "venv", directory)

    return work


def _cluster_pack(directory: Path, *, large: bool) -> Callable[[], object]:
    output = directory / "cluster-pack.pex"
    for path in directory.glob("cluster-pack.pex*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code = (
        "import sys; from cluster_pack.packaging import pack_in_pex; "
        f"pack_in_pex(sys.argv[2:], sys.argv[1], allow_large_pex={large})"
    )
    return lambda: run_peer([PEERS / "python", "-c", code, output, *PACKAGES])
