"""Reads which libraries an ELF file needs. Running a tool for each file would be slow."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"\x7fELF"
_64_BIT_LITTLE_ENDIAN = b"\x02\x01"
_HEADER, _SEGMENT, _ENTRY = struct.Struct("<32xQ14xHH"), struct.Struct("<I4xQQ8xQ16x"), struct.Struct("<qQ")
_LOADED, _DYNAMIC = 1, 2
_NEEDED, _STRINGS, _STRINGS_SIZE, _RPATH, _RUNPATH = 1, 5, 10, 15, 29
_MAX_SIZE = 1 << 20


@dataclass(frozen=True)
class Dynamic:
    """The dynamic section of a program or shared library; all fields are empty if it has none.

    :param needed: names of the libraries that it needs.
    :param search: directories that are searched for them: absolute, or relative to `$ORIGIN`.
    :param strings: offset and size of the string table in the file. It includes the names of symbol versions.
    """

    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    strings: tuple[int, int] = (0, 0)


def read_dynamic(path: Path) -> Dynamic | None:
    """Return the dynamic section of a file; None if it is not an ELF file, is damaged, or has another format.

    Only the format of 64-bit little-endian machines (including x86-64 and aarch64) is supported; see elf(5).
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (struct.error, ValueError, OverflowError):
            return None


def _read(file: BinaryIO) -> Dynamic | None:
    head = file.read(_HEADER.size)
    if not head.startswith(MAGIC + _64_BIT_LITTLE_ENDIAN):
        return None
    offset, size, count = _HEADER.unpack(head)
    if size != _SEGMENT.size:
        return None
    segments = list(_SEGMENT.iter_unpack(_part(file, offset, size * count)))
    section = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
    if section is None:
        return Dynamic()
    _, offset, _, size = section
    entries: list[tuple[int, int]] = []
    for tag, value in _ENTRY.iter_unpack(_part(file, offset, size - size % _ENTRY.size)):
        if tag == 0:
            break
        entries.append((tag, value))
    values = dict(entries)
    address, length = values.get(_STRINGS, 0), values.get(_STRINGS_SIZE, 0)
    # Translate the address in memory to an offset in the file.
    starts = (
        at + address - start
        for kind, at, start, stored in segments
        if kind == _LOADED and start <= address < start + stored
    )
    begin = next(starts, None)
    if begin is None or begin + length > os.fstat(file.fileno()).st_size:
        return None
    searched = values.get(_RUNPATH, values.get(_RPATH))
    return Dynamic(
        needed=tuple(_string(file, begin + value) for tag, value in entries if tag == _NEEDED),
        search=tuple(_string(file, begin + searched).split(":")) if searched is not None else (),
        strings=(begin, length),
    )


def _part(file: BinaryIO, offset: int, size: int) -> bytes:
    if size > _MAX_SIZE:
        raise ValueError("too large")
    file.seek(offset)
    part = file.read(size)
    if len(part) != size:
        raise ValueError("truncated")
    return part


def _string(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    text, end, _ = file.read(1 << 14).partition(b"\0")
    if not end:
        raise ValueError("unterminated string")
    return os.fsdecode(text)
