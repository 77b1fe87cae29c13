"""Measuring rivals in turns, and what is claimed of the outcome."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

FEWEST = 5
ROUNDS = int(os.environ.get("BENCH_ROUNDS", str(FEWEST)))
"""How often each rival is measured; with fewer than 5, to try a section out, nothing is kept."""

Run = Callable[[], float]
"""Does the work once, and returns the seconds that count."""


def timed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(rivals: Mapping[str, Run], *, rounds: int = ROUNDS, warm_up: int = 1) -> dict[str, list[float]]:
    """Measure rivals one after the other, round by round, so that a busy moment of the machine meets them all.

    :param rivals: by name.
    :param rounds: that count.
    :param warm_up: rounds before these, which fill caches and don't count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(-warm_up, rounds):
        for name, run in rivals.items():
            taken = run()
            tell(f"{'warm-up' if number < 0 else f'{number + 1} of {rounds}'}: {name}: {taken:.3f} s")
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def tell(line: str) -> None:
    """Say how far it is, beside the table."""
    print(f"  {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Claim:
    """What is said of a figure, and what would prove it wrong.

    :param what: in a few words, for the table.
    :param ours: name of our figure among the section's.
    :param rival: name of the other; None where the bound is a figure of its own.
    :param at_least: how many times less than the rival's ours has to be.
    :param at_most: how many times the rival's ours may be; without a rival, how much it may be.
    """

    what: str
    ours: str
    rival: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a section found.

    :param figures: by name: all that were measured, in the order of measuring.
    :param claims: about them.
    :param units: of figures that aren't seconds, by name.
    :param notes: what a reader of the figures has to know.
    """

    figures: Mapping[str, list[float]]
    claims: tuple[Claim, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with medians, and what became of the claims."""
        medians = {name: statistics.median(raw) for name, raw in self.figures.items()}
        return {
            "figures": {
                name: {"unit": self.units.get(name, "s"), "median": _short(medians[name]), "raw": [*map(_short, raw)]}
                for name, raw in self.figures.items()
            },
            "claims": [_judged(claim, medians) for claim in self.claims],
            "notes": list(self.notes),
        }


def _judged(claim: Claim, medians: Mapping[str, float]) -> dict[str, Any]:
    ours = medians[claim.ours]
    judged: dict[str, Any] = {"what": claim.what, "ours": claim.ours, "rival": claim.rival}
    if claim.rival is None:
        value = ours
    elif claim.at_least is not None:
        value = medians[claim.rival] / ours
        judged["times_less"] = _short(value)
    else:
        value = ours / medians[claim.rival]
        judged["times_as_much"] = _short(value)
    if claim.at_least is not None:
        judged |= {"at_least": claim.at_least, "held": value >= claim.at_least}
    if claim.at_most is not None:
        judged |= {"at_most": claim.at_most, "held": value <= claim.at_most}
    return judged


def _short(value: float) -> float:
    """Four digits that count: the rest is noise."""
    return value if value == 0 else round(value, max(0, 3 - math.floor(math.log10(abs(value)))))
