"""The sections, in the order of the table: each is a module with a function `run() -> Outcome`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from benchmarks.measure import Outcome

NAMES = ("pack", "build", "find", "attach", "tasks", "memory", "accumulators", "broadcast", "imports")


def section(name: str) -> Callable[[], Outcome]:
    """Return the function that runs a section."""
    run: Callable[[], Outcome] = import_module(f"{__name__}.{name}").run
    return run
