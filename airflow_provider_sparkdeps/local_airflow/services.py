"""The parent process of the services of a `LocalAirflow`.

Importing Airflow takes 3 to 5 s of CPU time. The four services are ready in less than half the time if they are forked
from one process that has imported it. Each runs the same code as ``airflow <service>`` on a command line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sqlite3
import sys
import time
import traceback
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import psutil

# The log servers of the scheduler and the triggerer would need ports. The API server reads the same files.
SERVICES = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
# Set for all processes of an instance.
INSTANCE_VARIABLE = "SPARKDEPS_LOCAL_AIRFLOW"
STOP_TIMEOUT = 6.0  # Airflow kills a task 5 s after on_kill was called.
KILL_TIMEOUT = 10.0
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def stop_processes(leaders: Iterable[int], instance: str) -> None:
    """Stop session leaders and their descendants with SIGTERM, and with SIGKILL if they still run some seconds later.

    :param leaders: process ids. Processes that have already ended are skipped.
    :param instance: value of `INSTANCE_VARIABLE`, to find background processes that a task has left.
    """
    known = set(leaders)
    for number, seconds in ((signal.SIGTERM, STOP_TIMEOUT), (signal.SIGKILL, KILL_TIMEOUT)):
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        # A second scan finds processes that were forked during the first one by processes that have ended since.
        while (running := _running(known, instance) or _running(known, instance)) and time.monotonic() < deadline:
            known |= running
            # Also those that have started since. Airflow skips its cleanup if it gets a second SIGTERM.
            for pid in running - signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= running
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended (its parent may not have waited for it yet)."""
    try:
        return psutil.Process(pid).status() not in _ENDED
    except psutil.NoSuchProcess:
        return False


def _running(known: set[int], instance: str) -> set[int]:
    """Return the known processes, those in their sessions, those with the variable, and descendants of all these."""
    parents, running = {}, set()
    for process in psutil.process_iter(["environ", "ppid", "status"]):
        pid, info = process.pid, process.info
        if pid == os.getpid() or info["status"] in _ENDED:
            continue
        parents[pid] = info["ppid"]
        with contextlib.suppress(ProcessLookupError):
            # The variable is not enough: some forked processes overwrite their environment with their title.
            has_variable = (info["environ"] or {}).get(INSTANCE_VARIABLE) == instance
            if has_variable or not known.isdisjoint((pid, os.getsid(pid))):
                running.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in running} - running:
        running |= more
    return running


def main(logs: str) -> None:
    """Start the services, write their process ids to stdout as JSON, and stop them when stdin is closed.

    :param logs: directory for the output of the services, one file for each.
    """
    command_line = importlib.import_module("airflow.__main__")
    for preloaded in ("airflow.jobs.scheduler_job_runner", "airflow.jobs.triggerer_job_runner"):
        importlib.import_module(preloaded)

    def start(name: str, arguments: list[str]) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            output = os.open(Path(logs, f"{name}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.argv = ["airflow", *arguments]
            command_line.main()
            status = 0
        except SystemExit as stopped:
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        except BaseException:  # noqa: BLE001 - the child must not return to its parent's frames
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    database = Path(os.environ["AIRFLOW_HOME"], "airflow.db")
    # Copying an empty database is a second faster than creating one.
    empty = database.with_name(f"empty-{version('apache-airflow-core')}.db")
    for old in database.parent.glob(f"{database.name}*"):
        old.unlink()
    if empty.exists():
        _copy(empty, database)
    else:
        migration = os.waitpid(start("db-migrate", ["db", "migrate"]), 0)[1]
        if migration:
            sys.exit(
                "Could not create Airflow's database: `airflow db migrate` failed.\n"
                + Path(logs, "db-migrate.log").read_text(errors="replace")
            )
        _copy(database, empty.with_suffix(".new"))
        empty.with_suffix(".new").replace(empty)

    pids = [start(name, arguments) for name, arguments in SERVICES.items()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        sys.stdout.write(json.dumps(dict(zip(SERVICES, pids, strict=True))) + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        # Only if the owner was killed. Otherwise it stops the services itself, and this process with SIGTERM.
        stop_processes(pids, os.environ[INSTANCE_VARIABLE])
    finally:
        for pid in pids:
            os.waitpid(pid, 0)


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)
