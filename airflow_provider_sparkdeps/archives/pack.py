"""Packing a prefix into a reproducible `.tar.gz`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airflow_provider_sparkdeps.archives.tar import Member, TarStream
from airflow_provider_sparkdeps.exceptions import ArchiveError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.text import join_limited

# isal has levels 0 to 3. benchmarks/NOTES.md compares them.
_LEVEL = 2
# Blocks are compressed independently: 0.2 % larger than with the end of the previous block as a dictionary.
_BLOCK = 1 << 20
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
_DEFLATE_END = b"\x03\0"
_MOST_THREADS = 4


@dataclass(frozen=True)
class Packed:
    """A packed payload: its size in bytes, and its sha256 in hex."""

    size: int
    sha256: str


def pack(prefix: Path, target: Path | BinaryIO, *, deadline: Deadline) -> Packed:
    """Write the contents of a directory as a `.tar.gz` that does not depend on time, location or user.

    Equal contents give equal bytes on the same kind of machine, with any number of threads.

    :param prefix: the directory. Its own name is not part of the archive.
    :param target: the file to write, or an open file.
    :param deadline: of the build.
    :raises ArchiveError: if the directory contains a link that leaves it, a special file, or a file that can't be read.
    :raises OSError: if the target can't be written.
    """
    stream = TarStream(prefix)
    _check_links(prefix, stream.members)
    if isinstance(target, Path):
        with target.open("wb") as file:
            return _write(stream, file, deadline)
    return _write(stream, target, deadline)


@contextlib.contextmanager
def start_packing(prefix: Path, target: Path, *, deadline: Deadline) -> Iterator[Future[Packed]]:
    """Pack in a thread while a `with` block runs. If the block raises, packing stops.

    :param prefix: the directory. The block may read it.
    :param target: the file to write.
    :param deadline: of the build. It expires at once if the block raises.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="sparkdeps-packing") as pool:
        future = pool.submit(pack, prefix, target, deadline=deadline)
        try:
            yield future
        except BaseException:
            deadline.pass_now()
            raise


def _write(stream: TarStream, file: BinaryIO, deadline: Deadline) -> Packed:
    digest, size = hashlib.sha256(), 0
    with contextlib.closing(_gzip(stream, deadline)) as parts:
        for part in parts:
            digest.update(part)
            file.write(part)
            size += len(part)
    return Packed(size, digest.hexdigest())


def _gzip(stream: TarStream, deadline: Deadline) -> Generator[bytes]:
    """Read and compress blocks in threads. Both release the GIL, so that all cores are used."""
    from isal import isal_zlib

    threads = max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0))))
    crc = 0
    pending: deque[Future[tuple[bytes, int, int]]] = deque()
    starts = iter(range(0, stream.size, _BLOCK))
    yield _GZIP_HEADER
    with ThreadPoolExecutor(threads, thread_name_prefix="sparkdeps-pack") as pool:
        worker = _Worker(stream)
        try:
            while True:
                while len(pending) < threads + 2 and (start := next(starts, None)) is not None:
                    pending.append(pool.submit(worker.compress, start))
                if not pending:
                    break
                deadline.left("packing")
                part, part_crc, length = pending.popleft().result()
                crc = isal_zlib.crc32_combine(crc, part_crc, length)
                yield part
        finally:
            for each in pending:
                each.cancel()
    yield _DEFLATE_END + struct.pack("<II", crc, stream.size & 0xFFFFFFFF)


class _Worker:
    """Compresses blocks of a tar stream, with one buffer per thread."""

    def __init__(self, stream: TarStream) -> None:
        self._stream = stream
        self._buffers = threading.local()

    def compress(self, start: int) -> tuple[bytes, int, int]:
        """Return the raw deflate stream of a block, aligned to bytes, with the crc32 and length of the block."""
        from isal import isal_zlib

        buffer = getattr(self._buffers, "buffer", None)
        if buffer is None:
            buffer = self._buffers.buffer = memoryview(bytearray(_BLOCK))
        length = self._stream.read_into(buffer, start)
        block = buffer[:length]
        compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -15)
        return (
            compressor.compress(block) + compressor.flush(isal_zlib.Z_SYNC_FLUSH),
            isal_zlib.crc32(block),
            length,
        )


def _leaves_prefix(root: Path, link: Path, target: str) -> bool:
    # The target as written, even if it returns by the name of the prefix, and as resolved through other links.
    written = os.path.normpath(link.relative_to(root).parent / target)
    resolved = Path(os.path.realpath(link))
    return target.startswith("/") or written.split("/")[0] == ".." or not resolved.is_relative_to(root)


def _check_links(prefix: Path, members: Sequence[Member]) -> None:
    root = Path(os.path.realpath(prefix))
    leaving = [
        f"{member.name} -> {member.link}"
        for member in members
        if member.link and _leaves_prefix(root, root / member.name, member.link)
    ]
    if leaving:
        raise ArchiveError(
            f"These links point outside the environment and would be broken on executors:"
            f" {join_limited(leaving, 10)}. Install copies instead of links."
        )
