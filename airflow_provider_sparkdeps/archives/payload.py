"""Verification of an archive's payload by size and sha256."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.exceptions import ArchiveError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

_BLOCK = 1 << 20


def verify_payload(source: StorePath, archive: Archive, *, copy_to: Path | None = None) -> None:
    """Read a payload once and compare its size and sha256 with the manifest.

    :param copy_to: a local file to copy the payload to while reading.
    :raises ArchiveError: if the payload is missing or damaged.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as file, open(copy_to or os.devnull, "wb") as copy:  # noqa: PTH123
            while block := file.read(_BLOCK):
                size += len(block)
                digest.update(block)
                copy.write(block)
    except FileNotFoundError as error:
        raise ArchiveError(
            f"The payload {archive.payload} is no longer in the store. Build the environment again."
        ) from error
    if (size, digest.hexdigest()) != (archive.size, archive.sha256):
        problem = f"has {size} bytes instead of {archive.size}" if size != archive.size else "has another sha256"
        raise ArchiveError(
            f"The payload {archive.payload} {problem}: it was damaged after it was built."
            " Build the environment again with refresh=True."
        )
