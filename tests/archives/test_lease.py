"""The lease: one builder at a time, taken over from the dead, in the way of nobody."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from upath import UPath

from airflow_provider_sparkdeps.archives import lease as lease_module
from airflow_provider_sparkdeps.archives.lease import acquire_lease
from airflow_provider_sparkdeps.archives.status import read_status
from airflow_provider_sparkdeps.exceptions import BuildError


@pytest.fixture(params=["local", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "local":
        return tmp_path / "build.json"
    return UPath(f"memory://{tmp_path.name}/build.json")  # type: ignore[return-value]


def of_another_host(path: Path, *, age: float, **facts: object) -> None:
    now = time.time()
    known = {
        "state": "building", "host": "elsewhere", "pid": 1, "phase": "install", "progress": "12 packages",
        "started_at": now - 100, "heartbeat": now - age, "error": "", "token": "theirs", "pid_namespace": "theirs",
    }  # fmt: skip
    path.write_text(json.dumps({**known, **facts}))


def test_only_one_of_many_gets_it(path: Path) -> None:
    barrier, got = threading.Barrier(8), []

    def attempt() -> None:
        barrier.wait()
        if lease := acquire_lease(path):
            got.append(lease)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_while_it_is_held_it_tells_who_and_how_far(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    lease = acquire_lease(path)
    assert lease
    with lease:
        assert acquire_lease(path) is None
        lease.report("install", "from https://me:hunter2@example.com")
        deadline = time.monotonic() + 10
        while (status := read_status(path)) is None or status.phase != "install":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (status.state, status.phase, status.is_stale) == ("building", "install", False)
        assert status.progress == "from https://***@example.com"
        assert status.heartbeat_age < 5
        assert f":{status.pid} has been building for " in str(status)
    assert read_status(path) is None


def test_after_an_error_it_tells_the_error_and_the_next_builder_gets_it(path: Path) -> None:
    lease = acquire_lease(path)
    assert lease
    with contextlib.suppress(BuildError), lease:
        raise BuildError("no such package at https://me:hunter2@example.com" + 10_000 * "x" + "the end")
    status = read_status(path)
    assert status
    assert status.state == "failed"
    assert status.error.startswith("no such package at https://***@example.com")
    assert status.error.endswith("the end")
    assert len(status.error) <= 4096
    assert acquire_lease(path)


def test_after_an_interrupt_nothing_stays(path: Path) -> None:
    lease = acquire_lease(path)
    assert lease
    with contextlib.suppress(KeyboardInterrupt), lease:
        raise KeyboardInterrupt
    assert not path.exists()


def test_a_live_builder_elsewhere_is_left_alone(path: Path) -> None:
    of_another_host(path, age=30)
    assert acquire_lease(path) is None


def test_a_silent_builder_elsewhere_is_superseded(path: Path) -> None:
    of_another_host(path, age=61)
    assert acquire_lease(path)


def test_a_builder_whose_clock_is_ahead_is_superseded_by_who_saw_it_silent(path: Path) -> None:
    of_another_host(path, age=-1000)
    assert acquire_lease(path) is None
    assert acquire_lease(path, replace="theirs")


def test_a_dead_builder_on_this_machine_is_superseded_at_once(tmp_path: Path) -> None:
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
def test_a_lease_that_cannot_be_read_is_in_nobodys_way(path: Path, content: str) -> None:
    path.write_text(content)
    assert read_status(path) is None
    assert acquire_lease(path)


def test_who_lost_it_neither_beats_nor_removes_the_new_holders(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    lease = acquire_lease(path)
    assert lease
    with lease:
        of_another_host(path, age=0)
        time.sleep(0.2)
    status = read_status(path)
    assert status
    assert status.token == "theirs"
