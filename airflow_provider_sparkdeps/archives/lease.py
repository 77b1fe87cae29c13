"""One builder at a time: a `build.json` with a heartbeat. It saves work; correctness never rests on it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

HEARTBEAT_SECONDS = 2.0
TTL_SECONDS = 60.0
_SAY_SECONDS = 5.0
_ERROR_CHARACTERS = 4000


@dataclass(frozen=True)
class BuildStatus:
    """Who builds, and how far they are; or how the last build failed.

    :param state: "building" or "failed".
    :param host: of the builder.
    :param pid: of the builder, on its host.
    :param phase: "resolve", "install", "relocate", "check", "pack" or "publish"; "start" before any.
    :param progress: the last line about it.
    :param started_at: seconds since the epoch, by the builder's clock.
    :param heartbeat: seconds since the epoch, by the builder's clock.
    :param error: what a failed build said; empty while building.
    :param token: tells this build from all others.
    :param pid_namespace: tells whether `pid` means anything here.
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
    def heartbeat_age(self) -> float:
        """Seconds since the builder's last sign of life."""
        return max(0.0, time.time() - self.heartbeat)

    @property
    def abandoned(self) -> bool:
        """Whether the builder is gone: dead on this machine, or silent for longer than the time to live."""
        if self.state != "building":
            return False
        dead_here = self.pid_namespace == _process_space() and not _runs(self.pid)
        return dead_here or self.heartbeat_age > TTL_SECONDS

    def __str__(self) -> str:
        if self.state == "failed":
            return f"{self.host}:{self.pid} failed in {self.phase}"
        how_long = max(0, time.time() - self.started_at)
        seen = f", last seen {self.heartbeat_age:.0f} s ago" if self.heartbeat_age > 3 * HEARTBEAT_SECONDS else ""
        return f"{self.host}:{self.pid} is building for {how_long:.0f} s{seen}: {self.phase}: {self.progress}"


def read_status(path: StorePath) -> BuildStatus | None:
    """Return what a `build.json` says; None when there is none, or nothing that can be understood."""
    return _status(filesystem.read(path) or b"")


def _status(data: bytes) -> BuildStatus | None:
    try:
        facts = json.loads(data)
        return BuildStatus(**{**facts, "pid": int(facts["pid"]), "heartbeat": float(facts["heartbeat"])})
    except (ValueError, TypeError, KeyError):
        return None


def acquire_lease(path: StorePath, *, over: str | None = None) -> Lease | None:
    """Become the builder, unless somebody else is.

    :param path: of the `build.json`.
    :param over: token of a builder that the caller knows to be gone.
    """
    lease = Lease(path)
    if filesystem.create(path, lease.content()):
        return lease
    data = filesystem.read(path)
    if data is None:
        return None  # released in this moment; whoever removed it now could remove the next holder's
    status = _status(data)
    if status and status.state == "building" and not status.abandoned and status.token != over:
        return None
    filesystem.remove(path)
    return lease if filesystem.create(path, lease.content()) else None


class Lease:
    """The right to build, kept up by a thread until the `with` block ends.

    After an error `build.json` keeps its text, for those who wait; after an interrupt nothing stays, so that
    somebody else goes on.
    """

    def __init__(self, path: StorePath) -> None:
        now = time.time()
        self._path = path
        self._facts: dict[str, Any] = {
            "state": "building",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "phase": "start",
            "progress": "",
            "started_at": now,
            "heartbeat": now,
            "error": "",
            "token": uuid.uuid4().hex,
            "pid_namespace": _process_space(),
        }
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sparkdeps-lease", daemon=True)

    def content(self) -> bytes:
        """Return the `build.json` of this moment."""
        self._facts["heartbeat"] = time.time()
        return json.dumps(self._facts).encode()

    def report(self, phase: str, progress: str) -> None:
        """Say how far the build is; others see a new phase at once, progress in it at the next heartbeat."""
        entered = phase != self._facts["phase"]
        self._facts.update(phase=phase, progress=redact(progress)[:500])
        if entered:
            self._wake.set()

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._wake.set()
        self._thread.join()
        # Nothing that goes wrong here may stand in for the build's own error; a lease that stays runs out.
        with contextlib.suppress(OSError):
            if not self._is_ours():
                return
            if isinstance(error, Exception):
                self._facts.update(state="failed", error=_shortened(redact(str(error) or repr(error))))
                filesystem.write(self._path, self.content())
            else:
                filesystem.remove(self._path)

    def _is_ours(self) -> bool:
        status = read_status(self._path)
        return status is not None and status.token == self._facts["token"]

    def _beat(self) -> None:
        while True:
            self._wake.wait(HEARTBEAT_SECONDS)
            self._wake.clear()
            if self._stopping:
                return
            # A store that is out of reach for a moment is no reason to stop; publishing will tell if it lasts.
            with contextlib.suppress(OSError):
                if not self._is_ours():
                    return
                filesystem.write(self._path, self.content())


class Watch:
    """What a waiting builder has seen of the one it waits for.

    :param say: called now and then with a line on who builds and how far they are.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: BuildStatus | None = None
        self._seen_at = time.monotonic()
        self._said_at = -_SAY_SECONDS

    def look(self, status: BuildStatus | None) -> None:
        """Take note; raise the error of a build that was waited for."""
        now = time.monotonic()
        waited_for = self._seen if self._seen and self._seen.state == "building" else None
        if status and waited_for and status.token == waited_for.token and status.state == "failed":
            raise BuildError(f"{status.host}:{status.pid}, whose build was waited for, failed: {status.error}")
        if status != self._seen:
            self._seen, self._seen_at = status, now
        if status and status.state == "building" and now - self._said_at > _SAY_SECONDS:
            self._said_at = now
            self._say(f"wait: {status}")

    @property
    def stale_token(self) -> str | None:
        """The builder that gave no sign for its time to live, whatever its clock says."""
        silent = time.monotonic() - self._seen_at > TTL_SECONDS
        return self._seen.token if self._seen and silent else None


def _shortened(text: str) -> str:
    if len(text) <= _ERROR_CHARACTERS:
        return text
    return f"{text[:1000]}\n...\n{text[-(_ERROR_CHARACTERS - 1005) :]}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _process_space() -> str:
    """Two processes that get the same answer see the same process ids; containers may share a host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()
