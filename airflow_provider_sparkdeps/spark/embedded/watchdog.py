"""A script that runs a server and stops it when the process that started it ends. Uses the standard library only.

Usage: ``watchdog.py OWNER_PID PID_FILE REMOVE COMMAND...``, as the leader of a session. REMOVE is a directory to remove
if the owner has ended, or empty.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


def session_members(leader: int) -> list[int]:
    """Return the processes of a session except its leader, or an empty list on systems without /proc.

    PySpark's daemons leave the process group of their server, but not its session.
    """
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The name of the program, in parentheses, may contain any bytes.
            status = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(status[3]) == leader and int(entry.name) != leader and status[0] not in b"ZX":
            members.append(int(entry.name))
    return members


def kill_session(leader: int) -> None:
    """Kill the processes of a session except its leader, and wait up to 3 seconds until they have ended."""
    deadline = time.monotonic() + 3
    while (members := session_members(leader)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main(owner: int, pid_file: Path, remove: str, command: list[str]) -> int:
    """Run a command until it ends, a signal arrives, or the owner ends. Return its exit code."""
    stopping = False

    def stop(_signum: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, stop)
    server = subprocess.Popen(command)
    partial = pid_file.with_suffix(".part")
    partial.write_text(str(server.pid))
    partial.rename(pid_file)
    # A process gets a new parent when its own ends, even by SIGKILL. PR_SET_PDEATHSIG would be sent at the end of the
    # owner's thread already, and a pipe would stay open in every process that the owner forked.
    while server.poll() is None and not stopping and os.getppid() == owner:
        time.sleep(0.1)
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(4)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    kill_session(os.getpid())
    if remove and os.getppid() != owner:
        shutil.rmtree(remove, ignore_errors=True)
    return server.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
