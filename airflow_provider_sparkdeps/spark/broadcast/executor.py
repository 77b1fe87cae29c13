"""Runs on executors, pickled by value: fetches, maps and unpickles the values of broadcast variables."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import mmap
import os
import pickle
import socket
import struct
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# A file contains a pickle, its buffers, the buffers' sizes, the number of buffers, the length of the pickle and this.
MAGIC = b"sparkdps"
ALIGNMENT = 64
"""Buffers start at multiples of this, which is the size of a cache line; in bytes."""
_BLOCK = 1 << 20
# Seconds: for another worker to fetch a value, for the driver to answer, and for others to install a file.
_FETCH_TIMEOUT = 1800.0
_READ_TIMEOUT = 60.0
_INSTALL_TIMEOUT = 5.0
# Bytes on disk that an executor keeps. The least recently used files are removed first.
_MAX_BYTES = 20_000_000_000


class ExecutorBroadcast:
    """A broadcast variable in a UDF. Its value is loaded when it is first used."""

    __slots__ = ("_generation", "_loaded", "_sha256", "_uri")

    def __init__(self, sha256: str, uri: str | None, generation: int) -> None:
        self._sha256 = sha256
        self._uri = uri
        self._generation = generation
        self._loaded: Any

    @property
    def value(self) -> Any:
        try:
            return self._loaded
        except AttributeError:
            self._loaded = _get_value(self._sha256, self._uri, self._generation)
            return self._loaded

    def unpersist(self, blocking: bool = False) -> None:
        raise RuntimeError("Broadcast variables are read-only on executors. Change them in the task's callable.")

    destroy = unpersist

    def __repr__(self) -> str:
        return f"Broadcast({self._sha256[:12]})"


def _unpickle_reference(sha256: str, uri: str | None, generation: int) -> ExecutorBroadcast:
    """Return the variable when a worker unpickles a UDF that uses it, once per task.

    A worker keeps the values that its current and its previous task use, as in classic Spark.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    task = context.taskAttemptId() if context else -1
    state = _state()
    with state.lock:
        if task != state.task:
            state.task, state.used, state.used_before = task, set(), state.used
        state.used.add(sha256)
        for other in state.values.keys() - state.used - state.used_before:
            del state.values[other]
        if sha256 in state.values and state.values[sha256][0] < generation:
            del state.values[sha256]  # It has been unpersisted since.
    return ExecutorBroadcast(sha256, uri, generation)


def load(path: Path) -> Any:
    """Return the value in a file. Its buffers are memory of the file, which all processes share."""
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    count, length, magic = struct.unpack("<QQ8s", content[-24:])
    if magic != MAGIC:
        raise ValueError(f"{path} does not contain a broadcast value.")
    sizes = struct.unpack(f"<{count}Q", content[len(content) - 24 - 8 * count : -24])
    buffers, at = [], length
    for size in sizes:
        at += -at % ALIGNMENT
        buffers.append(content[at : at + size])
        at += size
    # Garbage collection would scan a growing heap again and again.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return pickle.loads(content[:length], buffers=buffers)  # noqa: S301 (written by this package, and verified)
    finally:
        if was_enabled:
            gc.enable()


def _state() -> Any:
    """Return what this process has loaded. It is in a module, because each task gets new copies of this code."""
    name = "_sparkdeps_broadcast"
    if name not in sys.modules:
        new: Any = types.ModuleType(name)
        new.lock, new.values, new.task, new.used, new.used_before = threading.RLock(), {}, None, set(), set()
        sys.modules.setdefault(name, new)
    return sys.modules[name]


def _get_value(sha256: str, uri: str | None, generation: int) -> Any:
    state = _state()
    with state.lock:
        if sha256 not in state.values:
            try:
                value = load(_local_copy(sha256, uri))
            except (ImportError, AttributeError) as error:
                raise RuntimeError(
                    f"Could not load broadcast value {sha256[:12]} on this executor: {error}. Add the packages of its "
                    "classes to the session's environment, in versions that match the task's own."
                ) from error
            state.values[sha256] = (generation, value)
        return state.values[sha256][1]


def _local_copy(sha256: str, uri: str | None) -> Path:
    """Return the executor's copy of a file. The first worker that needs it fetches and verifies it."""
    from pyspark import SparkFiles

    # driver_python/driver.py sets it where Spark runs a function in the driver's Python.
    on_driver = os.environ.get("SPARKDEPS_SESSION_DIRECTORY")
    root_directory = on_driver or SparkFiles._root_directory
    if not root_directory:
        raise RuntimeError("The value of a broadcast variable can be read only in the task's callable and in UDFs.")
    # Spark brings files of a session to a directory of the session, whose parent belongs to the executor. For window
    # functions and streams, it names the latter, or a session's that has no files. A stream has a directory of its own,
    # with the files of the session.
    root = Path(root_directory).absolute()
    is_session = bool(on_driver) or root.name == os.environ.get("SPARK_JOB_ARTIFACT_UUID")
    executor = root.parent if is_session else root
    cache = executor / "sparkdeps"
    home = cache / f"bc-{sha256}"
    try:
        cache.mkdir(exist_ok=True)
        if not _touch(home):
            with (cache / f".{home.name}.lock").open("w") as lock:
                _lock(lock, _FETCH_TIMEOUT)
                if not _touch(home):
                    _fetch(home, [root / home.name, *executor.glob(f"*/{home.name}")], uri)
    except OSError as error:
        raise RuntimeError(
            f"Could not fetch broadcast value {sha256[:12]} on this executor: {error}. Check the executor's disk space "
            "and its connection to the driver."
        ) from error
    return home


def _touch(home: Path) -> bool:
    """Mark a file as used now; return whether it exists."""
    try:
        os.utime(home, ns=(time.time_ns(), home.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _lock(file: Any, timeout: float) -> None:
    """Lock a file. Return without the lock after the timeout: the owner hangs, and a second fetch is harmless."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)


def _fetch(home: Path, session_files: list[Path], uri: str | None) -> None:
    """Install a file, from the session's own files or from the driver."""
    sha256 = home.name.removeprefix("bc-")
    for old in home.parent.glob(f".{home.name}.part.*"):
        old.unlink(missing_ok=True)  # This worker holds the lock, so a worker that was killed left the file.
    part = home.parent / f".{home.name}.part.{os.getpid()}"
    try:
        if session_file := next(filter(Path.exists, session_files), None):
            found = _sha256_of(session_file)
            _link_or_copy(session_file, part)
        elif uri:
            found = _fetch_from_driver(uri, part)
        else:
            raise RuntimeError(
                f"Broadcast value {sha256[:12]} is not on this executor: the session lost its files. Run the task "
                "again."
            )
        if found != sha256:
            raise RuntimeError(
                f"Broadcast value {sha256[:12]} was damaged on its way to this executor: its sha256 is {found[:12]}. "
                "Run the task again."
            )
        _install(part, home)
    finally:
        part.unlink(missing_ok=True)
    _evict(home)


def _sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _link_or_copy(source: Path, target: Path) -> None:
    import shutil

    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fetch_from_driver(uri: str, target: Path) -> str:
    """Fetch a file from the driver as executors do; return its sha256.

    It sends a StreamRequest of org.apache.spark.network.protocol, as delivery/executor/fetch_from_driver.sh does.
    """
    address = urlsplit(uri)
    path = address.path.encode()
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=_READ_TIMEOUT) as connection:
        # The frame: its length, the message type (6: StreamRequest), the length of the stream's name, the name.
        connection.sendall(struct.pack(">QBI", 13 + len(path), 6, len(path)) + path)
        stream = connection.makefile("rb", buffering=_BLOCK)
        length, kind = struct.unpack(">QB", _read(stream, 9))
        answer = _read(stream, length - 9)
        # Type 7 is a StreamResponse. It ends with the number of bytes that follow.
        if kind != 7:
            raise RuntimeError(f"The driver no longer has {path.decode()}. Broadcast the value again.")
        left = struct.unpack(">Q", answer[-8:])[0]
        digest = hashlib.sha256()
        with target.open("wb") as file:
            while left:
                block = _read(stream, min(left, _BLOCK))
                digest.update(block)
                file.write(block)
                left -= len(block)
    return digest.hexdigest()


def _read(stream: Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) < size:
        raise ConnectionError("the driver closed the connection")
    return data


def _install(part: Path, home: Path) -> None:
    """Rename a file to its final name. Executors with sibling directories share one copy."""
    executors = home.parent.parent.parent
    shared = part.with_name(f"{part.name}.shared")
    # A copy of another user, or on another disk, can't be linked. Then this one is used.
    with contextlib.suppress(OSError):
        directory = os.open(executors, os.O_RDONLY)
        try:
            _lock(directory, _INSTALL_TIMEOUT)
            for other in executors.glob(f"*/sparkdeps/{home.name}"):
                os.link(other, shared)
                shared.replace(part)
                break
            part.replace(home)
            return
        finally:
            os.close(directory)
    part.replace(home)


def _evict(home: Path) -> None:
    """Remove the least recently used files until the others are within the limit."""
    files = sorted(((path.stat(), path) for path in home.parent.glob("bc-*")), key=lambda each: -each[0].st_atime_ns)
    total = 0
    for stat, path in files:
        total += stat.st_size
        if total > _MAX_BYTES and path != home:
            path.unlink(missing_ok=True)  # Processes that have mapped it keep it.
