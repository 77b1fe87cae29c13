"""Local working directories that are removed after use, or by the next user if this one was killed."""

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
_SURELY_DEAD_SECONDS = 3600


@contextlib.contextmanager
def scratch_directory(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """Make a directory for the length of a `with` block; sweep away those whose process was killed.

    :param prefix: its name starts so; only directories of the same prefix are swept.
    :param parent: where; by default the system's temporary directory.
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
        # Between creation and lock, a sweeper may have taken it for a dead one's.
        if (directory / _LOCK).exists():
            return directory, lock
        os.close(lock)


def _sweep(prefix: str, parent: Path) -> None:
    for directory in parent.glob(f"{prefix}*"):
        try:
            lock = os.open(directory / _LOCK, os.O_RDWR)
        except OSError:
            # Half swept while an orphaned tool still wrote to it, half made, or another user's.
            with contextlib.suppress(OSError):
                if time.time() - directory.stat().st_mtime > _SURELY_DEAD_SECONDS:
                    shutil.rmtree(directory, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove_for_good(directory)
        finally:
            os.close(lock)


def _remove_for_good(directory: Path) -> None:
    """Remove what an orphaned tool of a killed builder may still write to for a moment."""
    deadline = time.monotonic() + 2
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)
