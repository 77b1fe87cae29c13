"""Broadcast variables: a value that is sent to executors once, and that UDFs read by `.value`."""

from __future__ import annotations

import logging
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any, Generic, TypeVar

from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.broadcast import executor
from airflow_provider_sparkdeps.spark.broadcast.value_file import ValueFile
from airflow_provider_sparkdeps.spark.delivery.deliver import uses_rpc_encryption
from airflow_provider_sparkdeps.spark.delivery.server_cache import ServerCache
from airflow_provider_sparkdeps.spark.session import Session

T = TypeVar("T")

log = logging.getLogger(__name__)

# Bytes. Sending this many to a session takes 0.2 s. The first upload to the cache takes another 0.2 s, and later
# sessions need 0.01 s.
CACHE_THRESHOLD = 8_000_000


def broadcast(session: Session, value: T) -> Broadcast[T]:
    """Return a broadcast variable: a value that UDFs read by `.value`, and that is sent once.

    :param session: an open session.
    :param value: any value that can be pickled. Classes and functions of a DAG bundle are pickled by value.
    :raises NotPicklableError: if the value can't be pickled. The message names the part of it that can't.
    :raises SessionError: if the session is not open, or the value could not be sent.
    """
    if not session.is_open:
        raise SessionError("The session is not open. Broadcast values inside its `with` block.")
    with tempfile.TemporaryDirectory(prefix="sparkdeps-broadcast-") as directory:
        try:
            file = ValueFile(value, Path(directory) / "value")
            uri = _send(session, file)
        except OSError as error:
            raise SessionError(
                f"Could not write the value to broadcast to {tempfile.gettempdir()}: {error}. Free disk space there, "
                "or set TMPDIR to another directory."
            ) from error
    return Broadcast(value, sha256=file.sha256, size=file.size, uri=uri, session=session)


class _BroadcastClosedError(SessionError, pickle.PicklingError):
    """PySpark passes on a PicklingError when it pickles a UDF. It would wrap and print others."""


class Broadcast(Generic[T]):
    """A value that UDFs read by `.value`, like PySpark's `Broadcast`; returned by `broadcast`.

    UDFs that use it are pickled without the value. Each executor fetches the value once, when a UDF first uses it, and
    each Python worker loads it once. Arrays of numpy, pandas and Arrow are not copied: all workers of an executor read
    the same memory. Therefore they are read-only on executors. Copy an array to change it.
    """

    def __init__(self, value: T, *, sha256: str, size: int, uri: str | None, session: Session) -> None:
        from pyspark.cloudpickle import register_pickle_by_value

        self._value = value
        self._session = session
        self._uri = uri
        self._generation = 0
        self._destroyed = False
        self.sha256 = sha256
        self.size = size
        register_pickle_by_value(executor)

    @property
    def value(self) -> T:
        """The value: the original object here, and in UDFs a copy of what it was when it was broadcast.

        :raises SessionError: if it was destroyed.
        """
        self._check()
        return self._value

    def unpersist(self, blocking: bool = False) -> None:
        """Make Python workers drop the value. They load it again when they next use it.

        :param blocking: ignored, because there is nothing to wait for. PySpark has it.
        :raises SessionError: if it was destroyed.
        """
        self._check()
        self._generation += 1

    def destroy(self, blocking: bool = False) -> None:
        """Forget the value. Using the variable afterwards raises an error. It may be destroyed twice.

        The copies on the server and on executors are removed with the session, or when they have been unused for a
        while.

        :param blocking: ignored, because there is nothing to wait for. PySpark has it.
        """
        self._destroyed = True
        self.__dict__.pop("_value", None)

    def _check(self) -> None:
        if self._destroyed:
            raise _BroadcastClosedError(f"Broadcast variable {self!r} was destroyed. Broadcast the value again.")

    def __reduce__(self) -> tuple[Any, tuple[str, str | None, int]]:
        self._check()
        if not self._session.is_open:
            raise _BroadcastClosedError(
                f"The session of broadcast variable {self!r} is closed. Broadcast the value in the session whose UDFs "
                "use it."
            )
        return executor._unpickle_reference, (self.sha256, self._uri, self._generation)

    def __repr__(self) -> str:
        return f"Broadcast({self.sha256[:12]}, {self.size / 1e6:.1f} MB)"


def _send(session: Session, file: ValueFile) -> str | None:
    """Send a file to the server, unless it is there; return where executors fetch it, or None if Spark brings it."""
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import grpc_details

    # The name of the file on executors. Spark unpacks files with some extensions.
    name = f"bc-{file.sha256}"
    megabytes = file.size / 1e6
    try:
        # In a shared session the value stays with the session, because other tasks may use UDFs that need it.
        if file.size >= CACHE_THRESHOLD and not session.is_shared and (uri := _put_in_cache(session, file, name)):
            return uri
        marker = conf.BROADCAST + file.sha256
        if marker not in session.rpc.get_conf(session.id, [marker]):
            started = time.monotonic()
            session.rpc.upload_file(session.id, name, file.write())
            session.rpc.set_conf(session.id, {marker: str(file.size)})
            log.info("Sent %s (%.1f MB) to the session in %.1f s", name[:15], megabytes, time.monotonic() - started)
    except grpc.RpcError as error:
        raise SessionError(
            f"Could not send the value to broadcast ({megabytes:.1f} MB) to {session.endpoint.target}: "
            f"{grpc_details(error)}. Run the task again. If it fails again, check the server's disk space and its log."
        ) from error
    return None


def _put_in_cache(session: Session, file: ValueFile, name: str) -> str | None:
    """Put a file into the server's cache for later sessions; None if executors can't fetch it from there."""
    if uses_rpc_encryption(session):
        return None
    cache = ServerCache(session, sha256=file.sha256, name=name, size=file.size)
    uri = cache.uri or cache.put(file.write())
    return uri if uri and uri.startswith("spark://") else None
