"""The sensor's eyes: archives, builders at work, and failed builds."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.sensors.environment import EnvironmentSensor
from airflow_provider_sparkdeps.triggers.environment import BuildWatch, EnvironmentTrigger

SMALL = VenvEnvironment(["six==1.16.0"])
IMPOSSIBLE = VenvEnvironment(["sparkdeps-no-such-package==1.0"])


@pytest.fixture
def store(tmp_path: Path) -> ArchiveStore:
    return ArchiveStore(tmp_path)


def test_each_line_says_who_builds_and_how_far_they_are(store: ArchiveStore) -> None:
    watch = BuildWatch(store, SMALL.key, SMALL.title)
    assert watch.look(since=0) == (None, f"{SMALL.title}: nobody builds it yet")
    builder = threading.Thread(target=store.build, args=(SMALL,), kwargs={"timeout": 300})
    builder.start()
    lines: list[str] = []
    archive = None
    while archive is None and builder.is_alive():
        archive, line = watch.look(since=0)
        lines.append(line)
        time.sleep(0.02)
    builder.join()
    archive, last = watch.look(since=0)
    assert archive == store.find(SMALL).to_dict()
    assert "is there" in last
    at_work = [line for line in lines if " is building for " in line]
    assert any(phase in line for line in at_work for phase in ("resolve", "install", "relocate", "check", "pack"))


def test_a_failed_build_counts_if_it_failed_in_this_dag_run(store: ArchiveStore) -> None:
    started = time.time()
    with pytest.raises(BuildError):
        store.build(IMPOSSIBLE, timeout=300)
    watch = BuildWatch(store, IMPOSSIBLE.key, IMPOSSIBLE.title)
    with pytest.raises(BuildError, match="sparkdeps-no-such-package was not found"):
        watch.look(since=started)
    assert watch.look(since=time.time() + 1) == (None, f"{IMPOSSIBLE.title}: nobody builds it yet")


def test_the_trigger_survives_being_stored_and_tells_a_failure(store: ArchiveStore, tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        store.build(IMPOSSIBLE, timeout=300)
    path, fields = EnvironmentTrigger(
        key=IMPOSSIBLE.key, title=IMPOSSIBLE.title, archive_store=str(tmp_path), poke_interval=0.1
    ).serialize()
    assert path == "airflow_provider_sparkdeps.triggers.environment.EnvironmentTrigger"

    async def first_event():
        async for event in EnvironmentTrigger(**fields).run():
            return event.payload

    assert "sparkdeps-no-such-package was not found" in asyncio.run(first_event())["error"]


def test_what_is_no_environment_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(InvalidArgumentError, match="environment is a str"):
        EnvironmentSensor(task_id="wait", environment="pandas")
