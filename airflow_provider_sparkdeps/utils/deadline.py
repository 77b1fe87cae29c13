"""The time limit of a build, which all of its steps share."""

from __future__ import annotations

import time

from airflow_provider_sparkdeps.exceptions import BuildError


class Deadline:
    """The time by which an operation has to be complete.

    :param seconds: from now.
    :param what: the operation, for the error message, such as "Building venv of six".
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._end = time.monotonic() + seconds

    def left(self, doing: str = "") -> float:
        """Return the remaining seconds.

        :param doing: the current step, for the error message.
        :raises BuildError: if no time remains.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            last = f" It was {doing}." if doing else ""
            raise BuildError(
                f"{self._what} was stopped after its timeout of {self._seconds:g} s.{last} Increase the timeout."
            )
        return left

    def pass_now(self) -> None:
        """Let the deadline pass now, for all threads that check it."""
        self._end = time.monotonic()
