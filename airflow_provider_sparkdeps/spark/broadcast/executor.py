"""A broadcast variable's half on executors: pickled by value, it needs only PySpark and the standard library there."""

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

# The end of a file: how many buffers it has, how long the pickle in front of them is, and this. Before it, the
# buffers' sizes. Pickle and buffers are padded to whole lines of the processor's cache.
MAGIC = b"sparkdps"
ALIGNMENT = 64
_BLOCK = 1 << 20
# Seconds: for an executor to get a value, for its driver to answer, and for others to rename a file.
_WAIT = 1800.0
_SILENCE = 60.0
_MOMENT = 5.0
# Bytes on disk that an executor keeps; those that were used last.
_MOST_BYTES = 20_000_000_000


class Reference:
    """What a broadcast variable is in a UDF: a name, and the value once it was asked for."""

    __slots__ = ("_generation", "_loaded", "_sha256", "_source")

    def __init__(self, sha256: str, source: str | None, generation: int) -> None:
        self._sha256 = sha256
        self._source = source
        self._generation = generation
        self._loaded: Any

    @property
    def value(self) -> Any:
        try:
            return self._loaded
        except AttributeError:
            self._loaded = _loaded_value(self._sha256, self._source, self._generation)
            return self._loaded

    def unpersist(self, blocking: bool = False) -> None:
        raise RuntimeError("a broadcast variable can't be unpersisted on executors: do it in the task's callable")

    def destroy(self, blocking: bool = False) -> None:
        raise RuntimeError("a broadcast variable can't be destroyed on executors: do it in the task's callable")

    def __repr__(self) -> str:
        return f"Broadcast({self._sha256[:12]})"


def restore(sha256: str, source: str | None, generation: int) -> Reference:
    """Make the reference of one pickled use; called when a worker unpickles the UDF, once per task.

    A worker keeps the values that its present task and the one before name, as classic Spark's do.
    """
    from pyspark import TaskContext

    context = TaskContext.get()
    task = context.taskAttemptId() if context else -1
    state = _state()
    with state.lock:
        if task != state.task:
            state.task, state.named, state.before = task, set(), state.named
        state.named.add(sha256)
        for other in [name for name in state.values if name not in state.named | state.before]:
            del state.values[other]
        if sha256 in state.values and state.values[sha256][0] < generation:
            del state.values[sha256]  # it was unpersisted since
    return Reference(sha256, source, generation)


def load(path: Path) -> Any:
    """Return the value that a file holds; its buffers are the file's own memory, shared by all who map it."""
    with path.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    count, length, magic = struct.unpack("<QQ8s", content[-24:])
    if magic != MAGIC:
        raise ValueError(f"{path} holds no broadcast value")
    sizes = struct.unpack(f"<{count}Q", content[len(content) - 24 - 8 * count : -24])
    buffers, at = [], length
    for size in sizes:
        at += -at % ALIGNMENT
        buffers.append(content[at : at + size])
        at += size
    # The collector would go through a growing heap again and again.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return pickle.loads(content[:length], buffers=buffers)  # noqa: S301 (by our own client, and verified)
    finally:
        if was_enabled:
            gc.enable()


def _state() -> Any:
    """What this process has loaded: a module, since each task gets new copies of the code here."""
    name = "_sparkdeps_broadcast"
    if name not in sys.modules:
        new: Any = types.ModuleType(name)
        new.lock, new.values, new.task, new.named, new.before = threading.RLock(), {}, None, set(), set()
        sys.modules.setdefault(name, new)
    return sys.modules[name]


def _loaded_value(sha256: str, source: str | None, generation: int) -> Any:
    state = _state()
    with state.lock:
        if sha256 not in state.values:
            try:
                value = load(_obtain(sha256, source))
            except (ImportError, AttributeError) as error:
                raise RuntimeError(
                    f"broadcast value {sha256[:12]} can't be loaded on this executor ({error}): what it is made of has "
                    "to be in the session's environment, in versions that fit the task's own"
                ) from error
            state.values[sha256] = (generation, value)
        return state.values[sha256][1]


def _obtain(sha256: str, source: str | None) -> Path:
    """Return the executor's own copy of a file, got and verified by the first who wants it."""
    from pyspark import SparkFiles

    if not SparkFiles._is_running_on_worker or not SparkFiles._root_directory:
        raise RuntimeError("the value of a broadcast variable can be read in the task's callable and in its UDFs only")
    # Spark brings files of a session to its own directory; the one above it belongs to the executor.
    session = Path(SparkFiles._root_directory).absolute()
    cache = session.parent / "sparkdeps"
    home = cache / f"bc-{sha256}"
    try:
        cache.mkdir(exist_ok=True)
        if not _touch(home):
            with (cache / f".{home.name}.lock").open("w") as lock:
                _lock(lock, _WAIT)
                if not _touch(home):
                    _bring(home, session / home.name, source)
    except OSError as error:
        raise RuntimeError(
            f"broadcast value {sha256[:12]} can't be had on this executor ({error}): is its disk full, or the driver "
            "not to be reached?"
        ) from error
    return home


def _touch(home: Path) -> bool:
    """Note that a file is used; say whether it is there."""
    try:
        os.utime(home, ns=(time.time_ns(), home.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _lock(file: Any, wait: float) -> None:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
    # Whoever has it hangs; two who do the same do no harm.


def _bring(home: Path, brought: Path, source: str | None) -> None:
    sha256 = home.name.removeprefix("bc-")
    for old in home.parent.glob(f".{home.name}.part.*"):
        old.unlink(missing_ok=True)  # of one who was killed, since we have the lock
    part = home.parent / f".{home.name}.part.{os.getpid()}"
    try:
        if brought.exists():
            found = _sha256_of(brought)
            _link_or_copy(brought, part)
        elif source:
            found = _pull(source, part)
        else:
            raise RuntimeError(
                f"broadcast value {sha256[:12]} is not in {brought.parent}: the session lost its files; run this again "
                "in a new session"
            )
        if found != sha256:
            raise RuntimeError(
                f"broadcast value {sha256[:12]} was damaged on its way to this executor (its sha256 is {found[:12]}): "
                "run this again in a new session"
            )
        _publish(part, home)
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


def _pull(source: str, target: Path) -> str:
    """Fetch a file from the driver as executors do (a StreamRequest of org.apache.spark.network.protocol)."""
    address = urlsplit(source)
    path = address.path.encode()
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=_SILENCE) as connection:
        # A frame: its own length, the type of message (6: StreamRequest), and the name of the stream after its length.
        connection.sendall(struct.pack(">QBI", 13 + len(path), 6, len(path)) + path)
        stream = connection.makefile("rb", buffering=_BLOCK)
        length, kind = struct.unpack(">QB", _exactly(stream, 9))
        answer = _exactly(stream, length - 9)
        # 7: StreamResponse, which ends in the number of bytes that follow.
        if kind != 7:
            raise RuntimeError(f"the driver does not have {path.decode()} any more: broadcast the value again")
        left = struct.unpack(">Q", answer[-8:])[0]
        digest = hashlib.sha256()
        with target.open("wb") as file:
            while left:
                block = _exactly(stream, min(left, _BLOCK))
                digest.update(block)
                file.write(block)
                left -= len(block)
    return digest.hexdigest()


def _exactly(stream: Any, size: int) -> bytes:
    found: bytes = stream.read(size)
    if len(found) < size:
        raise ConnectionError("the driver closed the connection")
    return found


def _publish(part: Path, home: Path) -> None:
    """Put a file in its place; executors whose directories are side by side keep one copy between them."""
    executors = home.parent.parent.parent
    shared = part.with_name(f"{part.name}.shared")
    # On another disk, or of another user, our own copy is as good.
    with contextlib.suppress(OSError):
        directory = os.open(executors, os.O_RDONLY)
        try:
            _lock(directory, _MOMENT)
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
    """Remove the files that were not used for the longest time, until the rest is within bounds."""
    files = sorted(((path.stat(), path) for path in home.parent.glob("bc-*")), key=lambda each: -each[0].st_atime_ns)
    total = 0
    for stat, path in files:
        total += stat.st_size
        if total > _MOST_BYTES and path != home:
            path.unlink(missing_ok=True)  # those who have mapped it keep it
