"""The process that starts the services of a `LocalAirflow` from one import of Airflow, and outlives none of them.

Each service imports Airflow for 3-5 s of CPU; forked from one process that has done so, four of them are ready
in less than half the time. Each then runs the same code as ``airflow <service>`` on a command line.
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

# The log servers of scheduler and triggerer would need ports; the API server reads the same files.
SERVICES = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
MARK = "SPARKDEPS_LOCAL_AIRFLOW"
STOP_GRACE = 6.0  # Airflow kills a task 5 s after its on_kill began
KILL_WITHIN = 3.0


def stop(leaders: Iterable[int], mark: str) -> None:
    """End session leaders, and all that they started: SIGTERM, and SIGKILL to what remains after some seconds.

    :param leaders: process ids; those of processes long gone do no harm.
    :param mark: value of `MARK` in their environment, which finds what a task left behind on its own.
    """
    known = set(leaders)
    for number, seconds in ((signal.SIGTERM, STOP_GRACE), (signal.SIGKILL, KILL_WITHIN)):
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while (running := _running(known, mark)) and time.monotonic() < deadline:
            known |= running
            # Late-comers get it, too; nobody twice, as Airflow takes a second SIGTERM for "don't clean up".
            for pid in running - signalled:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            signalled |= running
            time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Return whether a process is there and has not ended (ended ones stay until their parent asks)."""
    return _parent_and_session(pid) is not None


def _running(known: set[int], mark: str) -> set[int]:
    """Of all processes those known or marked, those in their sessions, and the children of any of them."""
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    found_of = {pid: found for pid in numbers if (found := _parent_and_session(pid)) and pid != os.getpid()}
    running = {pid for pid, (_, session) in found_of.items() if pid in known or session in known}
    # Forked processes may have their title where their environment was, so the mark alone does not find all.
    running |= {pid for pid in found_of.keys() - running if _is_marked(pid, mark)}
    while more := {pid for pid, (parent, _) in found_of.items() if parent in running} - running:
        running |= more
    return running


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it is gone, or not ours
        return False


def _parent_and_session(pid: int) -> tuple[int, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, _, session = text.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else (int(parent), int(session))


def main(logs: str) -> None:
    """Start the services, write their process ids to stdout as JSON, and end them when stdin does.

    :param logs: directory for a file of output for each service.
    """
    command_line = importlib.import_module("airflow.__main__")
    for shared in ("airflow.jobs.scheduler_job_runner", "airflow.jobs.triggerer_job_runner"):
        importlib.import_module(shared)

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
        except BaseException:  # noqa: BLE001 - nothing above this frame may run twice
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    database = Path(os.environ["AIRFLOW_HOME"], "airflow.db")
    # A new database takes a second more than a copy of an empty one.
    empty = database.with_name(f"empty-{version('apache-airflow-core')}.db")
    for old in database.parent.glob(f"{database.name}*"):
        old.unlink()
    if empty.exists():
        _copy(empty, database)
    else:
        migration = os.waitpid(start("db-migrate", ["db", "migrate"]), 0)[1]
        if migration:
            sys.exit("airflow db migrate failed:\n" + Path(logs, "db-migrate.log").read_text(errors="replace"))
        _copy(database, empty.with_suffix(".new"))
        empty.with_suffix(".new").replace(empty)

    pids = [start(name, arguments) for name, arguments in SERVICES.items()]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        sys.stdout.write(json.dumps(dict(zip(SERVICES, pids, strict=True))) + "\n")
        sys.stdout.flush()
        sys.stdin.buffer.read()
        # Whoever started us died without a word; otherwise it ends the services itself, and us with SIGTERM.
        stop(pids, os.environ[MARK])
    finally:
        for pid in pids:
            os.waitpid(pid, 0)


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)
