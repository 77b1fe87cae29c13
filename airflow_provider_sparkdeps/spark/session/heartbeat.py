"""Keeps sessions on a server from expiring while nobody calls them."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.spark.rpc import RpcClient

log = logging.getLogger(__name__)

# Seconds. Servers drop sessions that have been idle for an hour, unless told otherwise.
_INTERVAL = 120.0


class Heartbeat:
    """A thread that touches sessions now and then, until it is stopped.

    :param control: a channel to their server.
    """

    def __init__(self, control: RpcClient) -> None:
        self._control = control
        self._ids: list[str] = []
        self._stopped = threading.Event()

    @property
    def ids(self) -> tuple[str, ...]:
        """The sessions that it keeps alive."""
        return tuple(self._ids)

    def add(self, session_id: str) -> None:
        """Touch a session now, and then from time to time."""
        self._control.touch(session_id)
        if not self._ids:
            threading.Thread(target=self._beat, name="sparkdeps-heartbeat", daemon=True).start()
        if session_id not in self._ids:
            self._ids.append(session_id)

    def stop(self) -> None:
        """Let them go; never blocks."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            for session_id in self.ids:
                if not self._control.touch(session_id) and not self._stopped.is_set():
                    log.warning("The server lost session %s, which this one relies on", session_id)
                    self._ids.remove(session_id)
