"""Broadcast variables on Spark Connect: a value that UDFs read, sent once, and mapped into memory on executors."""

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

# Bytes. Sending as many to a session takes 0.2 s; the first time with a keeper takes 0.2 s longer than that, and the
# next ones, from any session, 0.01 s.
CACHE_THRESHOLD = 8_000_000


class _BroadcastClosedError(SessionError, pickle.PicklingError):
    """As PySpark lets it through when it pickles a UDF; others it would wrap, and print besides."""


class Broadcast(Generic[T]):
    """A value that UDFs read by `.value`, as PySpark's `Broadcast`; made by `broadcast`.

    A UDF that uses it carries a name instead of the value. Each executor gets the value once, when a UDF first asks
    for it, and each Python worker loads it once. Arrays of numpy, pandas and Arrow are not copied then: all workers of
    an executor read the same memory. On executors they are therefore read-only; copy what has to be changed.
    """

    def __init__(self, value: T, *, sha256: str, size: int, source: str | None, session: Session) -> None:
        from pyspark.cloudpickle import register_pickle_by_value

        self._value = value
        self._session = session
        self._source = source
        self._generation = 0
        self._destroyed = False
        self.sha256 = sha256
        self.size = size
        register_pickle_by_value(executor)

    @property
    def value(self) -> T:
        """The value: here the object that was given, in UDFs a copy of what it was then.

        :raises SessionError: it was destroyed.
        """
        self._check()
        return self._value

    def unpersist(self, blocking: bool = False) -> None:
        """Have Python workers drop what they have loaded, when they next use this variable; they load it again then.

        :param blocking: as PySpark has it; there is nothing to wait for.
        :raises SessionError: it was destroyed.
        """
        self._check()
        self._generation += 1

    def destroy(self, blocking: bool = False) -> None:
        """Forget the value; whoever uses this variable from now on gets an error. Doing it twice does no harm.

        What the server and executors have of it goes with the session, or when nobody has used it for a while.

        :param blocking: as PySpark has it; there is nothing to wait for.
        """
        self._destroyed = True
        self.__dict__.pop("_value", None)

    def _check(self) -> None:
        if self._destroyed:
            raise _BroadcastClosedError(
                f"broadcast variable {self!r} was destroyed: broadcast the value again to use it"
            )

    def __reduce__(self) -> tuple[Any, tuple[str, str | None, int]]:
        self._check()
        if not self._session.is_open:
            raise _BroadcastClosedError(
                f"the session of broadcast variable {self!r} is closed: broadcast the value in the session whose UDFs "
                "use it"
            )
        return executor.restore, (self.sha256, self._source, self._generation)

    def __repr__(self) -> str:
        return f"Broadcast({self.sha256[:12]}, {self.size / 1e6:.1f} MB)"


def broadcast(session: Session, value: T) -> Broadcast[T]:
    """Return a broadcast variable: a value that UDFs read by `.value`, and that is sent once.

    :param session: an open session.
    :param value: any object that can be pickled. Classes and functions of a DAG bundle are pickled by value.
    :raises InvalidArgumentError: if the value can't be pickled; the message names the part that can't.
    :raises SessionError: if the session is not open, or the value could not be sent.
    """
    if not session.is_open:
        raise SessionError("the session is not open: broadcast a value inside its `with` block")
    with tempfile.TemporaryDirectory(prefix="sparkdeps-broadcast-") as directory:
        try:
            file = ValueFile(value, Path(directory) / "value")
            source = _send(session, file)
        except OSError as error:
            raise SessionError(
                f"the value to broadcast can't be written to {tempfile.gettempdir()} ({error}): make room there, or "
                "set TMPDIR to a directory that has it"
            ) from error
    return Broadcast(value, sha256=file.sha256, size=file.size, source=source, session=session)


def _send(session: Session, file: ValueFile) -> str | None:
    """Have the server hold a file, unless it does; return where executors fetch it, or None if Spark brings it."""
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import grpc_details

    # An executor has the file by this name; Spark unpacks files of some endings.
    name = f"bc-{file.sha256}"
    megabytes = file.size / 1e6
    try:
        if file.size >= CACHE_THRESHOLD and not session.is_shared and (source := _keep(session, file, name)):
            return source
        marker = conf.BROADCAST + file.sha256
        if marker not in session.rpc.configure(session.id, read=[marker]):
            started = time.monotonic()
            session.rpc.add_file(session.id, name, file.complete())
            session.rpc.configure(session.id, write={marker: str(file.size)})
            log.info("Sent %s (%.1f MB) to the session in %.1f s", name[:15], megabytes, time.monotonic() - started)
    except grpc.RpcError as error:
        raise SessionError(
            f"the value to broadcast ({megabytes:.1f} MB) can't be sent to {session.endpoint.target}: "
            f"{grpc_details(error)}. Run this again; if it stays so, look at the server's disk and its log"
        ) from error
    return None


def _keep(session: Session, file: ValueFile, name: str) -> str | None:
    """Have the server hold a file for later sessions, too; None where executors can't fetch it from there."""
    if uses_rpc_encryption(session):
        return None
    keeper = ServerCache(session, sha256=file.sha256, name=name, size=file.size)
    source = keeper.source or keeper.take(file.complete())
    return source if source and source.startswith("spark://") else None
