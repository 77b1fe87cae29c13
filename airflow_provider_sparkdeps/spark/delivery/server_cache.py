"""Keepers: sessions on the server, one for each payload (an archive, a broadcast value), that hold it between tasks."""

from __future__ import annotations

import datetime
import logging
import time
import uuid
from concurrent.futures import Future
from pathlib import Path

from airflow_provider_sparkdeps.spark.conf import CACHE_FETCH_MODE, CACHE_UPLOADER, CACHE_URI
from airflow_provider_sparkdeps.spark.session import Session

log = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("6f0d9a52-3a0e-4f53-9d53-6a5c9f3f3a0b")
# Seconds.
_SENDING_TIMEOUT = 90.0
_POLL = 0.25
_MOST_A_DAY = 100


class ServerCache:
    """The session that holds one payload for all sessions of a user, and what is known of it there.

    Nobody closes it. It lives as long as sessions use it, and expires by itself when none has for the time after
    which the server drops idle sessions (`spark.connect.session.manager.defaultSessionTimeout`, an hour).

    :param session: whose server and user it is of; as long as it is open, the keeper lives.
    :param sha256: of the payload that it is for.
    :param name: the payload's name on executors; Spark unpacks files of some endings.
    :param size: the payload's, in bytes.
    :raises grpc.RpcError: the server could not be asked.
    """

    def __init__(self, session: Session, *, sha256: str, name: str, size: int) -> None:
        import grpc

        self._session = session
        self._name = name
        self._size = size
        ways = [CACHE_FETCH_MODE + scheme for scheme in ("file", "http", "https", "spark")]
        today = datetime.datetime.now(datetime.UTC).date()
        # One that has expired can't be opened again, so that the next one has another id.
        for number in range(_MOST_A_DAY):
            self._id = str(uuid.uuid5(_NAMESPACE, f"{sha256}/{today}/{number}"))
            try:
                self._known = session.rpc.configure(self._id, read=[CACHE_URI, *ways])
                break
            except grpc.RpcError as error:
                if "INVALID_HANDLE" not in str(error.details()) or number + 1 == _MOST_A_DAY:
                    raise
        # Executors that join may come back for the payload as long as the session is open.
        session.keep_alive(self._id)

    @property
    def source(self) -> str | None:
        """Where the cluster reads the payload that this keeper holds; None if it holds none."""
        return self._known.get(CACHE_URI)

    def way(self, scheme: str) -> str | None:
        """Return how executors come to payloads at addresses of a scheme, as `note_way` was told; None if unknown."""
        return self._known.get(CACHE_FETCH_MODE + scheme)

    def note_way(self, scheme: str, way: str) -> None:
        """Have later sessions know how executors come to payloads at addresses of a scheme."""
        self._note(CACHE_FETCH_MODE + scheme, way)

    def take(self, payload: Path, *, unless: Future[None] | None = None) -> str | None:
        """Have the payload held, sent by us unless somebody else is at it; return its address for the cluster.

        :param unless: when this has failed, no more is sent.
        :return: None where the server doesn't say at which address its executors find such files.
        :raises grpc.RpcError: it could not be sent.
        :raises grpc.FutureCancelledError: `unless` has failed.
        :raises SessionError: it was damaged on its way.
        """
        if source := self._await_turn():
            return source
        try:
            started = time.monotonic()
            self._session.rpc.add_file(self._id, self._name, payload, unless=unless)
            log.info(
                "Sent %s (%.1f MB) to the server in %.1f s; later sessions find it there",
                self._name,
                self._size / 1e6,
                time.monotonic() - started,
            )
            source = self._address()
            if source:
                self._note(CACHE_URI, source)
            return source
        finally:
            self._note(CACHE_UPLOADER, "")

    def _await_turn(self) -> str | None:
        """Return where the payload is once another has sent it, or None when it is for us to send it."""
        # To save work, no more: two senders of one payload do no harm.
        deadline = time.monotonic() + _SENDING_TIMEOUT
        said = False
        while time.monotonic() < deadline:
            found = self._session.rpc.configure(self._id, read=[CACHE_URI, CACHE_UPLOADER])
            if CACHE_URI in found:
                return found[CACHE_URI]
            sender = found.get(CACHE_UPLOADER)
            if sender == self._session.id:
                return None
            if not sender:
                # Of several who write at the same time, the last one finds itself there.
                self._note(CACHE_UPLOADER, self._session.id)
                time.sleep(_POLL / 2)
                continue
            if not said:
                log.info("Another task is sending %s: waiting for it", self._name)
                said = True
            time.sleep(_POLL)
        return None

    def _address(self) -> str | None:
        """Ask the server under which address its driver serves the file; it lists those of all its sessions."""
        from pyspark.errors import PySparkException

        end = f"/artifacts/{self._session.rpc.look(self._id)}/files/{self._name}"
        try:
            rows = self._session.spark.sql("LIST FILES").collect()
        except PySparkException:
            return None
        return next((row[0] for row in rows if row[0].endswith(end)), None)

    def _note(self, conf: str, value: str) -> None:
        self._session.rpc.configure(self._id, write={conf: value})
        self._known[conf] = value
