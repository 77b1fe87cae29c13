"""Waiting for a condition, with a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def wait_until(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Return as soon as the condition is true; fail if it is not within a time that is long on a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition was not true within {seconds} s"
        time.sleep(0.02)


@contextmanager
def ends_within(seconds: float = 30) -> Iterator[None]:
    """Fail if a block takes longer than it may on a busy machine; it must take much longer if it is broken."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@contextmanager
def when_exists(path: Path, action: Callable[[], object]) -> Iterator[None]:
    """Call a function during a block, as soon as a file exists, for example one that a UDF creates."""

    def act() -> None:
        wait_until(path.exists)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
