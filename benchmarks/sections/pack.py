"""Packing a prefix, compared with venv-pack, conda-pack and plain tar."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from airflow_provider_sparkdeps.archives.pack import pack
from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment, VenvEnvironment
from airflow_provider_sparkdeps.environments.context import BuildContext
from airflow_provider_sparkdeps.utils.deadline import Deadline
from benchmarks import recipe
from benchmarks.measure import Claim, Outcome, in_turns, log, timed
from benchmarks.setting import conda_prefix, plain_venv, seconds_of, work_directory

_TIMEOUT = 600


def run() -> Outcome:
    """Pack a virtualenv and a conda prefix of the same packages with each tool that supports them."""
    with work_directory() as directory:
        log("creating a virtualenv and a conda prefix")
        venv, conda = plain_venv(directory / "venv"), conda_prefix(directory)
        ours_venv = _prepare(VenvEnvironment.from_prefix(venv), directory / "ours-venv")
        ours_conda = _prepare(CondaEnvironment.from_prefix(conda), directory / "ours-conda")

        def conda_pack() -> float:
            (directory / "conda.tar.gz").unlink(missing_ok=True)
            # Without a prefix it asks conda for the active environment, and conda may not be installed.
            return seconds_of(f"import conda_pack; conda_pack.pack(prefix={str(conda)!r})", cwd=directory)

        figures = in_turns(
            {
                "ours": _pack(ours_venv, directory / "ours-venv.payload"),
                "venv-pack": lambda: recipe.pack(venv, directory),
                "tar": lambda: timed(lambda: _tar(ours_venv, directory / "venv.tar")),
                "ours, of conda": _pack(ours_conda, directory / "ours-conda.payload"),
                "conda-pack": conda_pack,
            }
        )
        sizes = {
            "size": directory / "ours-venv.payload",
            "size of venv-pack's": directory / recipe.NAME,
            "size, of conda": directory / "ours-conda.payload",
            "size of conda-pack's": directory / "conda.tar.gz",
        }
        figures |= {name: [path.stat().st_size / 1e6] * len(figures["ours"]) for name, path in sizes.items()}
    return Outcome(
        figures,
        (
            Claim("pack, compared with venv-pack", "ours", "venv-pack", at_least=4),
            Claim("pack, compared with conda-pack", "ours, of conda", "conda-pack", at_least=4),
            Claim("pack, compared with plain `tar -cf`", "ours", "tar", at_most=1.8),
            Claim("size, compared with venv-pack's", "size", "size of venv-pack's", at_most=1.15),
            Claim("size, compared with conda-pack's", "size, of conda", "size of conda-pack's", at_most=1.15),
        ),
        units=dict.fromkeys(sizes, "MB"),
        notes=(
            "ours and tar pack a prefix that contains the interpreter; venv-pack packs the virtualenv without one. "
            "conda-pack replaces prefixes in files while it packs; ours does so before.",
        ),
    )


def _prepare(environment: Environment, target: Path) -> Path:
    environment.build(target, BuildContext(Deadline(_TIMEOUT, f"Building {environment.title}"), lambda *_: None))
    return target


def _pack(prefix: Path, target: Path) -> Callable[[], float]:
    return lambda: timed(lambda: pack(prefix, target, deadline=Deadline(_TIMEOUT, "Packing")))


def _tar(prefix: Path, target: Path) -> None:
    subprocess.run(["tar", "-cf", target, "-C", prefix, "."], check=True)
