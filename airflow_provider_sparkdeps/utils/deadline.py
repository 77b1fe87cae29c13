"""A time limit that is passed down through a build."""

from __future__ import annotations

import time

from airflow_provider_sparkdeps.exceptions import BuildError


class Deadline:
    """A moment by which something must be done.

    :param seconds: from now.
    :param what: what is being done, for the error's sentence, such as "Building venv of six".
    """

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._what = what
        self._end = time.monotonic() + seconds

    def left(self, doing: str = "") -> float:
        """Return the seconds that are left.

        :param doing: what time is needed for now, for the error's sentence.
        :raises BuildError: when there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            last = f" It was {doing}." if doing else ""
            raise BuildError(
                f"{self._what} was stopped after its timeout of {self._seconds:.3g} s.{last} Allow it more."
            )
        return left

    def pass_now(self) -> None:
        """Have whoever looks at it, in whatever thread, find no time left."""
        self._end = time.monotonic()
