"""Measures alternatives in turns, and checks claims about the results."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

MIN_ROUNDS = 5
ROUNDS = int(os.environ.get("BENCH_ROUNDS", str(MIN_ROUNDS)))
"""How often each alternative is measured. With fewer than 5, to try out a section, no results are saved."""

Run = Callable[[], float]
"""Does the work once and returns the measured seconds."""


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(rivals: Mapping[str, Run], *, rounds: int = ROUNDS, warm_up: int = 1) -> dict[str, list[float]]:
    """Measure alternatives one after the other in each round, so that load on the machine affects all of them.

    :param rivals: alternatives by name.
    :param rounds: number of measured rounds.
    :param warm_up: number of rounds before them that fill caches and are not counted.
    :return: seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(-warm_up, rounds):
        for name, run in rivals.items():
            taken = run()
            log(f"{'warm-up' if number < 0 else f'{number + 1} of {rounds}'}: {name}: {taken:.3f} s")
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def log(line: str) -> None:
    """Report progress on stderr; the table goes to stdout."""
    print(f"  {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Claim:
    """A claim about a figure, with the bound that it must meet.

    :param what: title in the table.
    :param ours: name of our figure.
    :param rival: name of the figure to compare with; None if the bound is absolute.
    :param at_least: ours must be this many times smaller than the rival's.
    :param at_most: ours may be at most this many times the rival's; without a rival, the largest value allowed.
    """

    what: str
    ours: str
    rival: str | None = None
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a section.

    :param figures: all measured values by name, in the order in which they were measured.
    :param claims: claims about the figures.
    :param units: units by name, for figures that are not in seconds.
    :param notes: what readers of the figures need to know.
    """

    figures: Mapping[str, list[float]]
    claims: tuple[Claim, ...]
    units: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-compatible data with medians and evaluated claims."""
        medians = {name: statistics.median(raw) for name, raw in self.figures.items()}
        return {
            "figures": {
                name: {
                    "unit": self.units.get(name, "s"),
                    "median": _rounded(medians[name]),
                    "raw": [*map(_rounded, raw)],
                }
                for name, raw in self.figures.items()
            },
            "claims": [_evaluate(claim, medians) for claim in self.claims],
            "notes": list(self.notes),
        }


def _evaluate(claim: Claim, medians: Mapping[str, float]) -> dict[str, Any]:
    ours = medians[claim.ours]
    evaluated: dict[str, Any] = {"what": claim.what, "ours": claim.ours, "rival": claim.rival}
    if claim.rival is None:
        value = ours
    elif claim.at_least is not None:
        value = medians[claim.rival] / ours
        evaluated["times_less"] = _rounded(value)
    else:
        value = ours / medians[claim.rival]
        evaluated["times_as_much"] = _rounded(value)
    if claim.at_least is not None:
        evaluated |= {"at_least": claim.at_least, "met": value >= claim.at_least}
    if claim.at_most is not None:
        evaluated |= {"at_most": claim.at_most, "met": value <= claim.at_most}
    return evaluated


def _rounded(value: float) -> float:
    """Round to four significant digits; the rest is noise."""
    return value if value == 0 else round(value, max(0, 3 - math.floor(math.log10(abs(value)))))
