"""Local work directories, which are removed after use, or by a later process if the first one was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"
_STALE_SECONDS = 3600


@contextlib.contextmanager
def scratch_directory(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Create a directory for a `with` block, and remove those of processes that were killed.

    :param prefix: start of its name. Only directories with the same prefix are removed.
    :param parent: directory to create it in; by default the system's temporary directory.
    """
    parent = parent or Path(tempfile.gettempdir())
    _sweep(prefix, parent)
    directory, lock = _locked_directory(prefix, parent)
    try:
        yield Path(os.path.realpath(directory))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _locked_directory(prefix: str, parent: Path) -> tuple[Path, int]:
    while True:
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        lock = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Before it was locked, another process may have removed it as a leftover.
        if (directory / _LOCK).exists():
            return directory, lock
        os.close(lock)


def _sweep(prefix: str, parent: Path) -> None:
    for directory in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR)
        except OSError:
            # It has no lock yet or any more, or belongs to another user.
            with contextlib.suppress(OSError):
                if time.time() - directory.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(directory, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove_completely(directory)
        finally:
            os.close(lock)


def _remove_completely(directory: Path) -> None:
    """Remove a directory that a tool of a killed builder may still write to for a moment."""
    deadline = time.monotonic() + 2
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)
