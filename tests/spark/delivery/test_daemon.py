"""Spark's daemons, which fork Python workers, end when a session has no use for them."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.spark.delivery import launcher
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from ...support.executors import Built, homes, open_session, six_on_executors, wait_for


@pytest.fixture
def built(tmp_path: Path) -> Built:
    store = ArchiveStore(tmp_path / "store")
    archive = store.build(VenvEnvironment(["six==1.16.0"]), timeout=300)
    return Built(archive, store.fetch(archive)).renewed(tmp_path)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def pythons(server: EmbeddedServer, built: Built) -> tuple[set[int], set[int]]:
    """Return the daemons and the workers that run in an environment."""
    own = [f"{home}/".encode() for home in homes(server, built)]
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if command.startswith((*own,)) and b"pyspark.worker" in command:
                found[int(process.name)] = parent_of(int(process.name))
        except OSError:
            continue  # It has ended.
    workers = {process for process, parent in found.items() if parent in found}
    return found.keys() - workers, workers


def end_workers(server: EmbeddedServer, built: Built) -> None:
    """End workers that are idle, which Spark does after a minute."""
    for worker in pythons(server, built)[1]:
        os.kill(worker, signal.SIGTERM)


def may_be_removed(home: Path) -> bool:
    """Return whether no process holds the lock of an environment."""
    with (home.parent / f".{home.name}.used").open("a") as used:
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_daemons_without_workers_end_and_spark_starts_them_again(
    server: EmbeddedServer, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_IDLE_SECONDS", 1.0)
    with open_session(server) as session:
        built.attach(session)
        expected = dict.fromkeys(homes(server, built), "1.16.0")
        assert six_on_executors(session) == expected
        daemons, workers = pythons(server, built)
        assert len(daemons) == 2 <= len(workers)
        time.sleep(3)
        assert pythons(server, built)[0] == daemons, "they have workers"
        end_workers(server, built)
        wait_for(lambda: pythons(server, built) == (set(), set()))
        wait_for(lambda: all(map(may_be_removed, homes(server, built))))
        assert six_on_executors(session) == expected
        assert pythons(server, built)[0].isdisjoint(daemons)
    end_workers(server, built)
    wait_for(lambda: pythons(server, built) == (set(), set()))


def test_functions_see_what_they_would_see_in_sparks_daemon(server: EmbeddedServer, built: Built) -> None:
    def see(_: int) -> str:
        import __main__

        main: Any = __main__
        handler = signal.getsignal(signal.SIGALRM)
        return f"{main.__spec__.name} {sys.argv[1:]} {sys.path[0] == str(Path.cwd())} {handler!r}"

    with open_session(server) as session:
        seen = []
        for attached in (False, True):
            if attached:
                built.attach(session)
            seen.append(session.spark.range(1).select(udf(see, "string", useArrow=False)("id")).collect())
    assert seen[0] == seen[1]


def test_what_a_function_logs_names_the_function(server: EmbeddedServer, built: Built) -> None:
    def log(_: int) -> None:
        import logging

        logging.getLogger("test_daemon").warning("logged")

    with open_session(server) as session:
        built.attach(session)
        session.spark.conf.set("spark.sql.pyspark.worker.logging.enabled", "true")
        session.spark.range(1).select(udf(log, "int", useArrow=False)("id")).collect()
        logs = session.spark.tvf.python_worker_logs().where("logger = 'test_daemon'").select("context", "msg").collect()
    assert logs == [({"func_name": "log"}, "logged")]


def test_a_function_may_use_the_timer_of_the_daemon(server: EmbeddedServer, built: Built) -> None:
    def fork(_: int) -> int:
        signal.signal(signal.SIGALRM, lambda *_: os._exit(7))
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            time.sleep(10)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with open_session(server) as session:
        built.attach(session)
        (row,) = session.spark.range(1).select(udf(fork, "int", useArrow=False)("id")).collect()
    assert row[0] == 7


@pytest.mark.soak
def test_a_session_leaves_no_process_after_two_minutes(server: EmbeddedServer, built: Built) -> None:
    with open_session(server) as session:
        built.attach(session)
        six_on_executors(session)
    deadline = time.monotonic() + 150
    while pythons(server, built) != (set(), set()):
        assert time.monotonic() < deadline
        time.sleep(1)
