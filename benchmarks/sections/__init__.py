"""The sections, in the order of the table: one module each, with a function `run() -> Outcome`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.measure import Outcome

NAMES = ("pack", "build", "find", "attach", "tasks", "memory", "accumulators", "broadcast")


def section(name: str) -> Callable[[], Outcome]:
    """Return what runs a section."""
    run: Callable[[], Outcome] = import_module(f"{__name__}.{name}").run
    return run
