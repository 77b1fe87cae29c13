"""Finding an archive that exists, in a local store."""

from __future__ import annotations

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, timed
from benchmarks.setting import PACKAGES, room


def run() -> Outcome:
    """Ask as a task does that knows nothing yet: wish, key, store."""
    with room() as directory:
        ArchiveStore(directory).build(VenvEnvironment(PACKAGES), timeout=600, progress=lambda _: None)
        figures = in_turns({"ours": lambda: timed(lambda: _found(directory))}, rounds=4 * ROUNDS, warm_up=0)
    return Outcome(figures, (Claim("find an archive that exists", "ours", at_most=0.03),))


def _found(directory: object) -> None:
    if ArchiveStore(str(directory)).find(VenvEnvironment(PACKAGES)) is None:
        raise SystemExit("the archive that was just built is not found")
