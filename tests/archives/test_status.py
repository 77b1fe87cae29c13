"""BuildStatus and BuildWatcher: what a process that waits for a build logs and raises."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import status as status_module
from airflow_provider_sparkdeps.archives.lease import acquire_lease
from airflow_provider_sparkdeps.archives.status import BuildStatus, BuildWatcher, parse_status, read_status
from airflow_provider_sparkdeps.exceptions import BuildError

TITLE = "venv of six"


@pytest.fixture
def building(tmp_path: Path) -> BuildStatus:
    """The status of a build that has just started."""
    lease = acquire_lease(tmp_path / "build.json")
    assert lease
    status = read_status(tmp_path / "build.json")
    assert status
    return replace(status, phase="install", progress="12 packages")


@pytest.fixture
def failed(tmp_path: Path) -> BuildStatus:
    """The status that a failed build has left."""
    lease = acquire_lease(tmp_path / "failed.json")
    assert lease
    with contextlib.suppress(BuildError), lease:
        raise BuildError("no such package")
    status = read_status(tmp_path / "failed.json")
    assert status
    return status


def test_a_status_is_the_same_after_json(building: BuildStatus) -> None:
    assert parse_status(building.to_json()) == building


def test_progress_is_logged_with_the_builder_and_the_phase_but_not_at_every_check(
    building: BuildStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    watcher = BuildWatcher(TITLE, lines.append)
    for _ in range(3):
        watcher.check(building)
        watcher.log_progress()
    assert len(lines) == 1
    assert lines[0].startswith(f"wait: {TITLE}: ")
    assert f":{os.getpid()} has been building for 0 s: install: 12 packages" in lines[0]
    monkeypatch.setattr(status_module, "_LOG_SECONDS", 0)
    watcher.check(replace(building, heartbeat=time.time() - 30))
    watcher.log_progress()
    assert ", last seen 30 s ago: install: 12 packages" in lines[1]


@pytest.mark.parametrize("has_failed", [False, True])
def test_it_is_logged_that_no_build_is_running(has_failed: bool, failed: BuildStatus) -> None:
    lines: list[str] = []
    watcher = BuildWatcher(TITLE, lines.append, failed_since=failed.heartbeat + 1)
    watcher.check(failed if has_failed else None)
    watcher.log_progress()
    assert lines == [f"wait: {TITLE}: no build is running"]


def test_a_failure_counts_from_a_given_time_on(failed: BuildStatus) -> None:
    with pytest.raises(BuildError, match=rf":{os.getpid()} could not build {TITLE}: no such package"):
        BuildWatcher(TITLE, print, failed_since=failed.heartbeat).check(failed)
    BuildWatcher(TITLE, print, failed_since=failed.heartbeat + 1).check(failed)


def test_the_failure_of_a_build_that_was_seen_running_always_counts(failed: BuildStatus) -> None:
    watcher = BuildWatcher(TITLE, print)
    watcher.check(failed)
    watcher.check(replace(failed, state="building", token="another", error=""))
    watcher.check(failed)
    watcher.check(replace(failed, state="building", error=""))
    with pytest.raises(BuildError, match="no such package"):
        watcher.check(failed)


def test_a_build_is_stale_if_its_status_does_not_change(building: BuildStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = BuildWatcher(TITLE, print)
    watcher.check(building)
    assert watcher.stale_token is None
    monkeypatch.setattr(status_module, "TTL_SECONDS", -1)
    assert watcher.stale_token == building.token
