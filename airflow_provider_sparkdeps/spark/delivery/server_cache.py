"""Cache of uploaded files on the server, shared by the sessions of one user."""

from __future__ import annotations

import datetime
import logging
import time
import uuid
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path

from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.delivery.launcher import EXECUTOR_SCHEMES
from airflow_provider_sparkdeps.spark.pyspark_compat import driver_file_uri
from airflow_provider_sparkdeps.spark.session import Session

log = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("6f0d9a52-3a0e-4f53-9d53-6a5c9f3f3a0b")
# Seconds.
_UPLOAD_TIMEOUT = 90.0
_POLL_INTERVAL = 0.25
_MAX_SESSIONS_PER_DAY = 100


class FetchMode(StrEnum):
    """Who fetches payloads to executors."""

    EXECUTOR = "executor"  # The launcher does it, on executors that have not unpacked the payload.
    SPARK = "spark"  # Spark does it, on all executors in each session. This works everywhere.


class ServerCache:
    """A session on the server that holds one file for all sessions of a user.

    It is never closed. The server drops it when no session has used it for
    `spark.connect.session.manager.defaultSessionTimeout` (one hour by default).

    :param session: keeps the cache alive as long as it is open.
    :param sha256: of the file.
    :param name: of the file on executors. Spark unpacks files with some extensions.
    :param size: of the file, in bytes.
    :raises grpc.RpcError: if the server did not answer.
    """

    def __init__(self, session: Session, *, sha256: str, name: str, size: int) -> None:
        import grpc

        self._session = session
        self._name = name
        self._size = size
        confs = [conf.CACHE_URI, *map(_fetch_mode_conf, (*EXECUTOR_SCHEMES, ""))]
        today = datetime.datetime.now(datetime.UTC).date()
        # A session that has expired can't be opened again, so the next one has another id.
        for number in range(_MAX_SESSIONS_PER_DAY):
            self._id = str(uuid.uuid5(_NAMESPACE, f"{sha256}/{today}/{number}"))
            try:
                self._confs = session.rpc.get_conf(self._id, confs)
                break
            except grpc.RpcError as error:
                if "INVALID_HANDLE" not in str(error.details()) or number + 1 == _MAX_SESSIONS_PER_DAY:
                    raise
        # Executors that join later may fetch the file as long as the session is open.
        session.keep_alive(self._id)

    @property
    def uri(self) -> str | None:
        """Where the cluster reads the file; None if it has not been uploaded."""
        return self._confs.get(conf.CACHE_URI)

    def fetch_mode(self, scheme: str) -> FetchMode | None:
        """Return who fetches payloads from URIs of a scheme; None if it is not yet known."""
        value = self._confs.get(_fetch_mode_conf(scheme))
        return FetchMode(value) if value else None

    def set_fetch_mode(self, scheme: str, mode: FetchMode) -> None:
        """Store for later sessions who fetches payloads from URIs of a scheme."""
        self._set(_fetch_mode_conf(scheme), mode)

    def put(self, file: Path, *, cancel_on: Future[None] | None = None) -> str | None:
        """Upload the file, unless another session uploads it; return its URI for the cluster.

        :param cancel_on: the upload is cancelled when this fails.
        :return: None if the server does not report the URI.
        :raises grpc.RpcError: if the upload failed.
        :raises grpc.FutureCancelledError: if `cancel_on` failed.
        :raises ConnectError: if the connection is slower than 0.5 MB/s.
        :raises SessionError: if the file was damaged on its way.
        """
        if uri := self._wait_for_upload():
            return uri
        try:
            started = time.monotonic()
            self._session.rpc.upload_file(self._id, self._name, file, cancel_on=cancel_on)
            seconds = time.monotonic() - started
            log.info("Uploaded %s (%.1f MB) in %.1f s. Later sessions reuse it.", self._name, self._size / 1e6, seconds)
            if uri := driver_file_uri(self._session.spark, self._session.rpc.server_side_id(self._id), self._name):
                self._set(conf.CACHE_URI, uri)
            return uri
        finally:
            self._set(conf.CACHE_UPLOADER, "")

    def _wait_for_upload(self) -> str | None:
        """Return the URI once another session has uploaded the file; None if this session has to upload it."""
        # Waiting only avoids a duplicate upload. Two uploads of the same file are harmless.
        deadline = time.monotonic() + _UPLOAD_TIMEOUT
        is_logged = False
        while time.monotonic() < deadline:
            confs = self._session.rpc.get_conf(self._id, [conf.CACHE_URI, conf.CACHE_UPLOADER])
            if conf.CACHE_URI in confs:
                return confs[conf.CACHE_URI]
            uploader = confs.get(conf.CACHE_UPLOADER)
            if uploader == self._session.id:
                return None
            if not uploader:
                # If several sessions write their id at the same time, the last one finds its own.
                self._set(conf.CACHE_UPLOADER, self._session.id)
                time.sleep(_POLL_INTERVAL / 2)
                continue
            if not is_logged:
                log.info("Waiting for another task that uploads %s", self._name)
                is_logged = True
            time.sleep(_POLL_INTERVAL)
        return None

    def _set(self, name: str, value: str) -> None:
        self._session.rpc.set_conf(self._id, {name: value})
        self._confs[name] = value


def _fetch_mode_conf(scheme: str) -> str:
    return conf.CACHE_FETCH_MODE + (scheme if scheme in EXECUTOR_SCHEMES else "other")
