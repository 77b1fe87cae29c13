"""From a prefix to one normalised, reproducible `.tar.gz`."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from airflow_provider_sparkdeps.environments.process import Deadline
from airflow_provider_sparkdeps.errors import ArchiveError

_LEVEL = 2
# 1980-01-02, since zip files, which some packages make of themselves, know no earlier time in any time zone.
_MTIME = 315_619_200
# Depends on times and on the state of the process that wrote it. Measured with numpy, pandas and pyarrow: shipping
# it would make the archive 18 % larger and the build 5 s longer, to save each executor 1.4 s once.
_BYTECODE = "__pycache__"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Packed:
    """A payload as it was written: size in bytes, sha256 in hex."""

    size: int
    sha256: str


def pack(prefix: Path, target: Path, *, deadline: Deadline) -> Packed:
    """Write a directory's contents as a `.tar.gz` in which nothing depends on when, where or by whom.

    Equal contents give equal bytes on the same kind of machine; the number of threads makes no difference.

    :param prefix: the directory; its own name is not in the archive.
    :param target: the file to write.
    :param deadline: of the build.
    :raises ArchiveError: when it holds a link that leaves it, or what is neither file, directory nor link.
    """
    from isal import igzip_threaded

    members = sorted(_members(prefix), key=lambda member: member.name)
    _refuse_links_that_leave(prefix, members)
    with target.open("wb") as file:
        hashing = _Hashing(file)
        threads = max(1, min(4, len(os.sched_getaffinity(0))))
        with (
            igzip_threaded.open(  # type: ignore[no-untyped-call]
                hashing, "wb", _LEVEL, threads=threads, block_size=_BLOCK
            ) as gzip,
            tarfile.open(fileobj=gzip, mode="w|", format=tarfile.GNU_FORMAT, bufsize=_BLOCK) as tar,
        ):
            for member in members:
                deadline.left("packing")
                if member.isreg():
                    with (prefix / member.name).open("rb") as content:
                        tar.addfile(member, content)
                else:
                    tar.addfile(member)
    return Packed(hashing.size, hashing.sha256.hexdigest())


class _Hashing:
    """A file that knows the size and sha256 of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _members(directory: Path, below: str = "") -> Iterator[tarfile.TarInfo]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name == _BYTECODE:
                continue
            # Made by hand: what tarfile reads from the file system would bring times, owners and hard links.
            member = tarfile.TarInfo(f"{below}{entry.name}")
            facts = entry.stat(follow_symlinks=False)
            member.mode = 0o755
            member.mtime = _MTIME
            if entry.is_symlink():
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(Path(entry.path).readlink()), 0o777
            elif entry.is_dir():
                member.type = tarfile.DIRTYPE
                yield from _members(Path(entry.path), f"{member.name}/")
            elif stat.S_ISREG(facts.st_mode):
                member.size = facts.st_size
                member.mode = 0o755 if facts.st_mode & stat.S_IXUSR else 0o644
            else:
                raise ArchiveError(f"{member.name} is neither file, directory nor link and can't be packed.")
            yield member


def _leaves(root: Path, link: Path, target: str) -> bool:
    # As it is written, even if it comes back in by the prefix's name; and as it is followed, through other links.
    written = os.path.normpath(link.relative_to(root).parent / target)
    followed = Path(os.path.realpath(link))
    return target.startswith("/") or written.split("/")[0] == ".." or not followed.is_relative_to(root)


def _refuse_links_that_leave(prefix: Path, members: list[tarfile.TarInfo]) -> None:
    root = Path(os.path.realpath(prefix))
    leaving = [
        f"{member.name} -> {member.linkname}"
        for member in members
        if member.issym() and _leaves(root, root / member.name, member.linkname)
    ]
    if leaving:
        more = f" and {len(leaving) - 10} more" if len(leaving) > 10 else ""
        raise ArchiveError(
            f"These links lead out of the environment, and would lead nowhere on executors: {', '.join(leaving[:10])}"
            f"{more}. Install copies instead of links."
        )
