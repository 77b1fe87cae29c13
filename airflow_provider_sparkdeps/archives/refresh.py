"""How old an archive may be before its wish is resolved again, and what came of that."""

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
"""Beside a manifest, which stays as it is: when the wish was last resolved again, to the same lock."""

_SHOWN = 20


class RefreshPolicy:
    """What a build asks of an archive that is there already.

    :param refresh: whether its wish must be resolved again in any case.
    :param max_age: seconds or a timedelta after which it must; never if None.
    :raises InvalidArgumentError: when max_age can't be meant.
    """

    def __init__(self, *, refresh: bool, max_age: timedelta | float | None) -> None:
        seconds = max_age.total_seconds() if isinstance(max_age, timedelta) else max_age
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0):
            raise InvalidArgumentError(
                f"max_age={max_age!r} is no time span. Write seconds or a timedelta, such as timedelta(days=1)."
            )
        self._refresh = refresh
        self._max_age = seconds

    def judge(self, archive: Archive, folder: StorePath) -> tuple[bool, str]:
        """Return whether an archive may be used as it is, and a line on why or why not.

        :param folder: of the archive.
        """
        there = f"store: archive {archive.short_digest} is there, of {archive.created_at}"
        if self._refresh:
            return False, f"{there}: resolving again"
        if self._max_age is None:
            return True, f"{there}: nothing to build"
        age = max((datetime.now(UTC) - _last_look(archive, folder)).total_seconds(), 0)
        there += f", and was looked at {age:.0f} s ago"
        if age <= self._max_age:
            return True, f"{there}: nothing to build"
        return False, f"{there}, longer than {self._max_age:.0f} s: resolving again"


def record_check(folder: StorePath, archive: Archive) -> None:
    """Remember that an archive's wish was resolved again, to the same lock."""
    note = {"sha256": archive.sha256, "checked_at": datetime.now(UTC).isoformat(timespec="seconds")}
    filesystem.write(folder / CHECKED, json.dumps(note).encode())


def changes(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield lines on how a lock has changed, such as "pandas==2.2.2 -> pandas==2.2.3"."""
    before, after = _by_name(old), _by_name(new)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in changed[:_SHOWN]:
        yield f"{before.get(name, 'nothing')} -> {after.get(name, 'nothing')}"
    if len(changed) > _SHOWN:
        yield f"... and {len(changed) - _SHOWN} more"


def _by_name(lock: Sequence[str]) -> dict[str, str]:
    return {re.split(r"[ =@\[]", line)[0]: line for line in lock}


def _last_look(archive: Archive, folder: StorePath) -> datetime:
    times = [archive.created_at]
    try:
        note = json.loads(filesystem.read(folder / CHECKED) or b"{}")
        if note.get("sha256") == archive.sha256:
            times.append(note["checked_at"])
    except (ValueError, AttributeError, KeyError):
        pass  # only a note: without it, the archive is as old as it is
    return max(filter(None, map(_time, times)), default=datetime.fromtimestamp(0, UTC))


def _time(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
