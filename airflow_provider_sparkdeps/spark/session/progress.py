"""Logs the progress of Spark operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

_INTERVAL = 10.0


class ProgressLogger:
    """A progress handler of PySpark that logs a line every few seconds per operation, and at the operation's end."""

    def __init__(self, log_line: Callable[[str], None]) -> None:
        self._log_line = log_line
        self._logged_at: dict[str | None, float] = {}

    def __call__(self, stages: Iterable[Any] | None, inflight_tasks: int, operation_id: str | None, done: bool) -> None:
        """Called by PySpark for each progress message, and once when the operation has ended."""
        now = time.monotonic()
        last = self._logged_at.setdefault(operation_id, now)
        stages = list(stages or ())
        if done:
            del self._logged_at[operation_id]
        elif now - last < _INTERVAL:
            return
        else:
            self._logged_at[operation_id] = now
        if stages:
            tasks = sum(stage.num_tasks for stage in stages)
            completed = sum(stage.num_completed_tasks for stage in stages)
            read = sum(stage.num_bytes_read for stage in stages) / 1e6
            self._log_line(
                f"Spark operation {(operation_id or '?')[:8]} {'has ended' if done else 'is running'}: "
                f"{sum(stage.done for stage in stages)}/{len(stages)} stages, {completed}/{tasks} tasks, "
                f"{inflight_tasks} running, {read:.1f} MB read"
            )
