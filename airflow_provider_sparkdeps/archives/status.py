"""The status of a build, and a watcher for processes that wait for its archive."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.exceptions import BuildError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

HEARTBEAT_SECONDS = 2.0
TTL_SECONDS = 60.0
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class BuildStatus:
    """The content of a `build.json`: a running build and its progress, or the error of the last build.

    :param state: "building" or "failed".
    :param host: of the builder.
    :param pid: of the builder, on its host.
    :param phase: "resolve", "install", "relocate", "verify", "pack" or "publish"; "start" before any of them.
    :param progress: the last progress line.
    :param started_at: seconds since the epoch, by the builder's clock.
    :param heartbeat: seconds since the epoch, by the builder's clock.
    :param error: the error message of a failed build; empty while building.
    :param token: a random identifier of this build.
    :param pid_namespace: the machine and PID namespace in which `pid` is valid.
    """

    state: str
    host: str
    pid: int
    phase: str
    progress: str
    started_at: float
    heartbeat: float
    error: str
    token: str
    pid_namespace: str

    @property
    def is_stale(self) -> bool:
        """Whether the builder is gone: dead on this machine, or without a heartbeat for 60 seconds."""
        if self.state != "building":
            return False
        is_dead = self.pid_namespace == pid_namespace() and not _is_running(self.pid)
        return is_dead or self.heartbeat_age > TTL_SECONDS

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the builder's last heartbeat."""
        return max(0.0, time.time() - self.heartbeat)

    def to_json(self) -> bytes:
        """Return the content of the `build.json`."""
        return json.dumps(asdict(self)).encode()

    def __str__(self) -> str:
        if self.state != "building":
            return f"{self.host}:{self.pid} failed in {self.phase}"
        duration = max(0, time.time() - self.started_at)
        late = f", last seen {self.heartbeat_age:.0f} s ago" if self.heartbeat_age > 3 * HEARTBEAT_SECONDS else ""
        return f"{self.host}:{self.pid} has been building for {duration:.0f} s{late}: {self.phase}: {self.progress}"


def read_status(path: StorePath) -> BuildStatus | None:
    """Return the status in a `build.json`; None if the file does not exist or is not readable as one."""
    return parse_status(filesystem.read(path) or b"")


def parse_status(data: bytes) -> BuildStatus | None:
    """Return the status in the content of a `build.json`; None if it is not valid."""
    try:
        facts = json.loads(data)
        return BuildStatus(**{**facts, "pid": int(facts["pid"]), "heartbeat": float(facts["heartbeat"])})
    except (ValueError, TypeError, KeyError):
        return None


class BuildWatcher:
    """Follows a build by another process, on behalf of one that waits for its archive.

    :param title: of the environment, for messages.
    :param log_line: called with each line of the log.
    :param failed_since: seconds since the epoch. A build that failed at this time or later is an error. By default, a
        failure is an error only if this watcher has seen the same build running.
    """

    def __init__(self, title: str, log_line: Callable[[str], None], *, failed_since: float | None = None) -> None:
        self._title = title
        self._log_line = log_line
        self._failed_since = failed_since
        self._last: BuildStatus | None = None
        self._changed_at = time.monotonic()
        self._logged_at = -math.inf

    def check(self, status: BuildStatus | None) -> None:
        """Record the current status of the build.

        :raises BuildError: if the build failed; with the builder's error message.
        """
        if status and status.state == "failed" and self._is_awaited(status):
            raise BuildError(f"{status.host}:{status.pid} could not build {self._title}: {status.error}")
        if status != self._last:
            self._last, self._changed_at = status, time.monotonic()

    def log_progress(self) -> None:
        """Log who is building and how far the build is, at most every 5 seconds."""
        if time.monotonic() - self._logged_at > _LOG_SECONDS:
            self._logged_at = time.monotonic()
            progress = self._last if self._last and self._last.state == "building" else "no build is running"
            self._log_line(f"wait: {self._title}: {progress}")

    @property
    def stale_token(self) -> str | None:
        """The token of a build whose status has not changed for 60 seconds by this process's clock."""
        is_stale = time.monotonic() - self._changed_at > TTL_SECONDS
        return self._last.token if self._last and is_stale else None

    def _is_awaited(self, failed: BuildStatus) -> bool:
        if self._failed_since is not None and failed.heartbeat >= self._failed_since:
            return True
        return self._last is not None and self._last.state == "building" and self._last.token == failed.token


def pid_namespace() -> str:
    """Return a name that is equal in two processes if they see the same process ids.

    The host name is not enough, because several containers may share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True
