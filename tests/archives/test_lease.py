"""The lease: one builder at a time, and a stale lease is replaced."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from upath import UPath

from airflow_provider_sparkdeps.archives import lease as lease_module
from airflow_provider_sparkdeps.archives.lease import Lease, acquire_lease
from airflow_provider_sparkdeps.archives.status import read_status
from airflow_provider_sparkdeps.exceptions import BuildError

from ..support.waiting import wait_until

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath


@pytest.fixture(params=["local", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """A `build.json` that does not exist yet."""
    return tmp_path / "build.json" if request.param == "local" else UPath(f"memory://{tmp_path.name}/build.json")


@pytest.fixture
def lease(path: StorePath, monkeypatch: pytest.MonkeyPatch) -> Lease:
    """The lease on `path`, not entered yet."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    acquired = acquire_lease(path)
    assert acquired
    return acquired


def write_status_of_another_host(path: StorePath, *, heartbeat_age: float) -> None:
    now = time.time()
    facts = {
        "state": "building", "host": "elsewhere", "pid": 1, "phase": "install", "progress": "12 packages",
        "started_at": now - 100, "heartbeat": now - heartbeat_age, "error": "", "token": "another",
        "pid_namespace": "another",
    }  # fmt: skip
    path.write_text(json.dumps(facts))


def test_only_one_of_many_acquires_it(path: StorePath) -> None:
    barrier, acquired = threading.Barrier(8), []

    def attempt() -> None:
        barrier.wait()
        if lease := acquire_lease(path):
            acquired.append(lease)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(acquired) == 1


def test_while_it_is_held_its_status_is_renewed(path: StorePath, lease: Lease) -> None:
    with lease:
        assert acquire_lease(path) is None
        lease.report("install", "from https://me:hunter2@example.com")
        wait_until(lambda: (status := read_status(path)) and status.phase == "install")
        first = read_status(path)
        assert first
        assert (first.state, first.is_stale) == ("building", False)
        assert first.progress == "from https://***@example.com"
        wait_until(lambda: (status := read_status(path)) and status.heartbeat > first.heartbeat)
    assert read_status(path) is None


def test_a_new_phase_is_written_before_the_next_heartbeat(
    path: StorePath, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 1000)
    with lease:
        lease.report("resolve", "2 requirements")
        wait_until(lambda: (status := read_status(path)) and status.phase == "resolve")


def test_after_an_error_the_status_has_its_message_and_the_lease_is_free(path: StorePath, lease: Lease) -> None:
    with contextlib.suppress(BuildError), lease:
        raise BuildError("no such package at https://me:hunter2@example.com" + 10_000 * "x" + "the end")
    status = read_status(path)
    assert status
    assert status.state == "failed"
    assert status.error.startswith("no such package at https://***@example.com")
    assert status.error.endswith("the end")
    assert len(status.error) <= 4096
    assert acquire_lease(path)


def test_after_an_interrupt_the_status_is_removed(path: StorePath, lease: Lease) -> None:
    with contextlib.suppress(KeyboardInterrupt), lease:
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_live_builder_on_another_host_keeps_its_lease(path: StorePath) -> None:
    write_status_of_another_host(path, heartbeat_age=30)
    assert acquire_lease(path) is None


def test_the_lease_of_a_builder_without_a_heartbeat_is_replaced(path: StorePath) -> None:
    write_status_of_another_host(path, heartbeat_age=61)
    assert acquire_lease(path)


def test_the_lease_of_a_builder_whose_clock_is_ahead_is_replaced_if_the_caller_knows_that_it_is_stale(
    path: StorePath,
) -> None:
    write_status_of_another_host(path, heartbeat_age=-1000)
    assert acquire_lease(path) is None
    assert acquire_lease(path, replace="another")


def test_the_lease_of_a_dead_process_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from airflow_provider_sparkdeps.archives.lease import acquire_lease\n"
        "acquire_lease(Path(sys.argv[1])).__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "build.json"], check=False)
    status = read_status(tmp_path / "build.json")
    assert status
    assert status.is_stale
    assert acquire_lease(tmp_path / "build.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "building"}'])
def test_an_unreadable_lease_is_replaced(path: StorePath, content: str) -> None:
    path.write_text(content)
    assert read_status(path) is None
    assert acquire_lease(path)


def test_a_builder_that_lost_its_lease_neither_renews_nor_removes_the_new_one(path: StorePath, lease: Lease) -> None:
    def has_stopped_renewing() -> bool:
        # Written each time, since the lease may just have been about to write its own status.
        write_status_of_another_host(path, heartbeat_age=0)
        return "sparkdeps-lease" not in {thread.name for thread in threading.enumerate()}

    with lease:
        wait_until(has_stopped_renewing)
    status = read_status(path)
    assert status
    assert status.token == "another"
