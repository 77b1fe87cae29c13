"""Finding an existing archive in a local store."""

from __future__ import annotations

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, timed
from benchmarks.setting import PACKAGES, work_directory


def run() -> Outcome:
    """Do what a task does first: create the environment, compute its key, and look it up in the store."""
    with work_directory() as directory:
        ArchiveStore(directory).build(VenvEnvironment(PACKAGES), timeout=600, progress=lambda _: None)
        figures = in_turns({"ours": lambda: timed(lambda: _found(directory))}, rounds=4 * ROUNDS, warm_up=0)
    return Outcome(figures, (Claim("find an existing archive", "ours", at_most=0.03),))


def _found(directory: object) -> None:
    if ArchiveStore(str(directory)).find(VenvEnvironment(PACKAGES)) is None:
        raise SystemExit("The archive that was just built was not found.")
