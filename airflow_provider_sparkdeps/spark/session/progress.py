"""What Spark says of an operation's progress, as lines for a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

_INTERVAL = 10.0


class Progress:
    """Reports what Spark is doing, at most every few seconds for each operation, and each operation's end."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reported: dict[str | None, float] = {}

    def __call__(self, stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Called by PySpark at each progress message, and once when the operation has ended."""
        now = time.monotonic()
        last = self._reported.setdefault(operation_id, now)
        stages = list(stages or ())
        if done:
            del self._reported[operation_id]
        elif now - last < _INTERVAL:
            return
        else:
            self._reported[operation_id] = now
        if stages:
            tasks = sum(stage.num_tasks for stage in stages)
            completed = sum(stage.num_completed_tasks for stage in stages)
            read = sum(stage.num_bytes_read for stage in stages) / 1e6
            self._report(
                f"Spark {'has ended' if done else 'is running'} operation {(operation_id or '?')[:8]}: "
                f"{sum(stage.done for stage in stages)}/{len(stages)} stages, {completed}/{tasks} tasks, "
                f"{inflight_tasks} running, {read:.1f} MB read"
            )
