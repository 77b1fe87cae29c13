"""Keeps sessions on a server from expiring while they are not used."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.spark.rpc import RpcClient

log = logging.getLogger(__name__)

# Seconds. By default, servers drop sessions that have been idle for an hour.
_INTERVAL = 120.0


class Heartbeat:
    """A thread that calls the server for some sessions from time to time, until it is stopped."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._ids: list[str] = []
        self._stopped = threading.Event()

    @property
    def ids(self) -> tuple[str, ...]:
        """The sessions that are kept alive."""
        return tuple(self._ids)

    def add(self, session_id: str) -> None:
        """Keep a session alive, starting now."""
        self._rpc.is_alive(session_id)
        if not self._ids:
            threading.Thread(target=self._run, name="sparkdeps-heartbeat", daemon=True).start()
        if session_id not in self._ids:
            self._ids.append(session_id)

    def stop(self) -> None:
        """Let the sessions expire. Never blocks."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            for session_id in self.ids:
                if not self._rpc.is_alive(session_id) and not self._stopped.is_set():
                    log.warning("The server lost session %s, which this session depends on.", session_id)
                    self._ids.remove(session_id)
