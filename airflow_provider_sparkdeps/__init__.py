"""Airflow provider that gives every task its own Python dependencies on Spark Connect.

Public values and functions are imported from here; operators, sensors and hooks are imported from their modules, as
in Airflow's own providers. A name is loaded when it is first used, so that DAG files pay for what they use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive as Archive
    from airflow_provider_sparkdeps.archives import ArchiveStore as ArchiveStore
    from airflow_provider_sparkdeps.environments import (
        CondaEnvironment as CondaEnvironment,
    )
    from airflow_provider_sparkdeps.environments import (
        Login as Login,
    )
    from airflow_provider_sparkdeps.environments import (
        PexEnvironment as PexEnvironment,
    )
    from airflow_provider_sparkdeps.environments import (
        VenvEnvironment as VenvEnvironment,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        Accumulator as Accumulator,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        ApproxCountDistinct as ApproxCountDistinct,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        CounterOf as CounterOf,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        ListOf as ListOf,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        Max as Max,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        Min as Min,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        SetOf as SetOf,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        WithParam as WithParam,
    )
    from airflow_provider_sparkdeps.spark.accumulators import (
        decode_accumulators as decode_accumulators,
    )
    from airflow_provider_sparkdeps.spark.attach import attach as attach
    from airflow_provider_sparkdeps.spark.attach import detach as detach
    from airflow_provider_sparkdeps.spark.broadcast import Broadcast as Broadcast
    from airflow_provider_sparkdeps.spark.broadcast import broadcast as broadcast
    from airflow_provider_sparkdeps.spark.closures.report import inspect_closure as inspect_closure
    from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer as EmbeddedServer
    from airflow_provider_sparkdeps.spark.endpoint import Endpoint as Endpoint
    from airflow_provider_sparkdeps.spark.session import Session as Session
    from airflow_provider_sparkdeps.spark.session import SharedSession as SharedSession

__version__ = "0.1.0"

_MODULES = {
    "Archive": "archives",
    "ArchiveStore": "archives",
    "CondaEnvironment": "environments",
    "Login": "environments",
    "PexEnvironment": "environments",
    "VenvEnvironment": "environments",
    "Accumulator": "spark.accumulators",
    "ApproxCountDistinct": "spark.accumulators",
    "CounterOf": "spark.accumulators",
    "ListOf": "spark.accumulators",
    "Max": "spark.accumulators",
    "Min": "spark.accumulators",
    "SetOf": "spark.accumulators",
    "WithParam": "spark.accumulators",
    "decode_accumulators": "spark.accumulators",
    "attach": "spark.attach",
    "detach": "spark.attach",
    "Broadcast": "spark.broadcast",
    "broadcast": "spark.broadcast",
    "inspect_closure": "spark.closures.report",
    "EmbeddedServer": "spark.embedded",
    "Endpoint": "spark.endpoint",
    "Session": "spark.session",
    "SharedSession": "spark.session",
}

__all__ = ["__version__", "get_provider_info", *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata for Airflow's providers manager, without importing Airflow."""
    from copy import deepcopy

    from airflow_provider_sparkdeps.provider_info import PROVIDER_INFO

    # A copy, because Airflow adds entries to it.
    return deepcopy(PROVIDER_INFO) | {"versions": [__version__]}
