"""An archive's payload: whether it is what its manifest says."""

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


def verify(source: StorePath, archive: Archive, *, copy_to: Path | None = None) -> None:
    """Read a payload once, copying it on the way if asked to; raise when it is not the archive's."""
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as file, open(copy_to or os.devnull, "wb") as copy:  # noqa: PTH123
            while block := file.read(_BLOCK):
                size += len(block)
                digest.update(block)
                copy.write(block)
    except FileNotFoundError as error:
        raise ArchiveError(f"The payload {archive.payload} is gone from the store. Build it again.") from error
    if (size, digest.hexdigest()) != (archive.size, archive.sha256):
        fault = f"has {size} bytes instead of {archive.size}" if size != archive.size else "has another sha256"
        raise ArchiveError(
            f"The payload {archive.payload} {fault}: it was damaged after it was built."
            " Build the environment again with refresh=True."
        )
