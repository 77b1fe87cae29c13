"""Modules of a DAG bundle, and captured values, for tests of closures."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from airflow_provider_sparkdeps.spark.closures.report import Capture, ClosureReport

# Writes a module of a bundle, given its name and source, and imports it.
Bundle = Callable[[str, str], ModuleType]


def rows(report: ClosureReport) -> dict[str, Capture]:
    """Return the captured values of a report by owner and name."""
    return {f"{each.owner}: {each.name}": each for each in report.captures}


def local_scorer() -> Any:
    """Return a callable object of a class that is pickled by value."""

    class Local:
        bias = np.ones(2000)

        def __init__(self) -> None:
            self.weights = np.ones(1000)

        def __call__(self, x: float) -> Any:
            return self.weights * x + self.bias.sum()

    return Local()
