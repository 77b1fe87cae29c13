"""EnvironmentSensor and EnvironmentTrigger, without a scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.sensors.environment import EnvironmentSensor
from airflow_provider_sparkdeps.triggers.environment import EnvironmentTrigger

IMPOSSIBLE = VenvEnvironment(["sparkdeps-no-such-package==1.0"])


def test_the_trigger_can_be_serialized_and_reports_a_failed_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        ArchiveStore(tmp_path).build(IMPOSSIBLE, timeout=300)
    path, arguments = EnvironmentTrigger(
        key=IMPOSSIBLE.key, title=IMPOSSIBLE.title, archive_store=str(tmp_path), poke_interval=0.1
    ).serialize()
    assert path == "airflow_provider_sparkdeps.triggers.environment.EnvironmentTrigger"

    async def first_event() -> dict[str, str]:
        event = await anext(EnvironmentTrigger(**arguments).run())
        return dict(event.payload)

    assert "sparkdeps-no-such-package was not found" in asyncio.run(first_event())["error"]


def test_a_value_that_is_not_an_environment_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(InvalidArgumentError, match="environment must be an Environment, not a str"):
        EnvironmentSensor(task_id="wait", environment="pandas")  # type: ignore[arg-type]
