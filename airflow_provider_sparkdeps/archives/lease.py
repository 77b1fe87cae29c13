"""The lease on a build: a `build.json` with a heartbeat.

The lease only avoids duplicate builds. Two concurrent builds of an environment are harmless.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from dataclasses import replace as replace_fields
from types import TracebackType
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.archives.status import (
    HEARTBEAT_SECONDS,
    BuildStatus,
    parse_status,
    pid_namespace,
    read_status,
)
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

_ERROR_CHARACTERS = 4000
_PROGRESS_CHARACTERS = 500


def acquire_lease(path: StorePath, *, replace: str | None = None) -> Lease | None:
    """Return the lease on a build; None if another process holds it.

    :param path: of the `build.json`.
    :param replace: token of a build that the caller knows to be stale.
    """
    lease = Lease(path)
    if filesystem.create(path, lease.content()):
        return lease
    data = filesystem.read(path)
    if data is None:
        return None  # Released just now. To remove the file could remove the next holder's.
    status = parse_status(data)
    if status and status.state == "building" and not status.is_stale and status.token != replace:
        return None
    filesystem.remove(path)
    return lease if filesystem.create(path, lease.content()) else None


class Lease:
    """The right to build, renewed by a thread until the `with` block ends.

    After an error, `build.json` keeps its message for the processes that wait. After an interrupt, it is removed, so
    that another process builds.
    """

    def __init__(self, path: StorePath) -> None:
        now = time.time()
        self._path = path
        self._status = BuildStatus(
            state="building",
            host=socket.gethostname(),
            pid=os.getpid(),
            phase="start",
            progress="",
            started_at=now,
            heartbeat=now,
            error="",
            token=uuid.uuid4().hex,
            pid_namespace=pid_namespace(),
        )
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="sparkdeps-lease", daemon=True)

    def content(self) -> bytes:
        """Return the current content of the `build.json`."""
        return replace_fields(self._status, heartbeat=time.time()).to_json()

    def report(self, phase: str, progress: str) -> None:
        """Record how far the build is. A new phase is written at once, progress in it with the next heartbeat."""
        is_new = phase != self._status.phase
        self._status = replace_fields(self._status, phase=phase, progress=redact(progress)[:_PROGRESS_CHARACTERS])
        if is_new:
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
        # No error here may hide the build's own. A lease that could not be removed expires.
        with contextlib.suppress(OSError):
            if not self._is_held():
                return
            if isinstance(error, Exception):
                message = _shorten(redact(str(error) or repr(error)))
                self._status = replace_fields(self._status, state="failed", error=message)
                filesystem.write(self._path, self.content())
            else:
                filesystem.remove(self._path)

    def _is_held(self) -> bool:
        status = read_status(self._path)
        return status is not None and status.token == self._status.token

    def _renew(self) -> None:
        while True:
            self._wake.wait(HEARTBEAT_SECONDS)
            self._wake.clear()
            if self._stopping:
                return
            # Go on if the store is unreachable for a moment. If it stays so, publishing fails.
            with contextlib.suppress(OSError):
                if not self._is_held():
                    return
                filesystem.write(self._path, self.content())


def _shorten(message: str) -> str:
    if len(message) <= _ERROR_CHARACTERS:
        return message
    return f"{message[:1000]}\n...\n{message[-(_ERROR_CHARACTERS - 1005) :]}"
