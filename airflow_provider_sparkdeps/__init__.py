"""Airflow provider that gives every task its own Python dependencies on Spark Connect."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return what Airflow's providers manager asks of a provider; imports nothing of Airflow."""
    from copy import deepcopy

    from airflow_provider_sparkdeps.provider_info import PROVIDER_INFO

    # Airflow enters things of its own into what it gets.
    return deepcopy(PROVIDER_INFO)
