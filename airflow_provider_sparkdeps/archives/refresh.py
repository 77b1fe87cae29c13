"""When an existing archive must be resolved again, and how its lock has changed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

CHECKED = "checked.json"
"""Next to a manifest: when its environment was last resolved again, with the same lock as the result."""

_SHOWN = 20


class RefreshPolicy:
    """Whether a build may return an existing archive without resolving its environment again.

    :param refresh: always resolve again.
    :param max_age: seconds or a timedelta after which to resolve again; None for never.
    :raises InvalidArgumentError: if `max_age` is invalid.
    """

    def __init__(self, *, refresh: bool, max_age: timedelta | float | None) -> None:
        seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else max_age
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0):
            raise InvalidArgumentError(
                f"max_age={max_age!r} is not a duration. Write seconds or a timedelta, e.g. timedelta(days=1)."
            )
        self._refresh = refresh
        self._max_age = seconds

    def stale_reason(self, archive: Archive, folder: StorePath) -> str | None:
        """Return why an archive's environment must be resolved again; None if the archive is fresh.

        :param folder: of the archive.
        """
        if self._refresh:
            return "refresh=True"
        if self._max_age is None:
            return None
        age = max((datetime.now(UTC) - _last_checked(archive, folder)).total_seconds(), 0)
        if age <= self._max_age:
            return None
        return f"it was last checked {age:.0f} s ago, longer than max_age={self._max_age:.0f} s"


def record_check(archive: Archive, folder: StorePath) -> None:
    """Record that an archive's environment was resolved again, with the same lock as the result."""
    check = {"sha256": archive.sha256, "checked_at": datetime.now(UTC).isoformat(timespec="seconds")}
    filesystem.write(folder / CHECKED, json.dumps(check).encode())


def diff_locks(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield a line for each changed package, e.g. "pandas==2.2.2 -> pandas==2.2.3"."""
    before, after = _by_name(old), _by_name(new)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed[:_SHOWN]:
        yield f"{before.get(name, 'nothing')} -> {after.get(name, 'nothing')}"
    if len(changed) > _SHOWN:
        yield f"... and {len(changed) - _SHOWN} more"


def _by_name(lock: Sequence[str]) -> dict[str, str]:
    return {re.split(r"[ =@\[]", line)[0]: line for line in lock}


def _last_checked(archive: Archive, folder: StorePath) -> datetime:
    times = [archive.created_at]
    try:
        check = json.loads(filesystem.read(folder / CHECKED) or b"{}")
        if check.get("sha256") == archive.sha256:
            times.append(check["checked_at"])
    except (ValueError, AttributeError, KeyError):
        pass  # Without a readable record, the archive is as old as its manifest says.
    return max(filter(None, map(_parse_time, times)), default=datetime.fromtimestamp(0, UTC))


def _parse_time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
