"""The trigger that waits for an environment's archive, and what it shares with the sensor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.configuration import archive_store
from airflow_provider_sparkdeps.exceptions import BuildError, SparkDepsError


class BuildWatch:
    """Looks whether an archive is there, and at who builds it.

    :param store: where it will be.
    :param key: the environment's key.
    :param title: what people call the environment.
    """

    def __init__(self, store: ArchiveStore, key: str, title: str) -> None:
        self._store = store
        self._key = key
        self._title = title

    def look(self, *, since: float) -> tuple[dict[str, Any] | None, str]:
        """Return the archive as a dict, or None, and a line for the log.

        :param since: seconds since the epoch; a build that failed earlier does not count.
        :raises BuildError: the build failed; the message is the builder's.
        """
        if archive := self._store.find(self._key):
            return archive.to_dict(), f"{self._title}: archive {archive.short_digest} is there"
        status = self._store.status(self._key)
        if status is None or (status.state == "failed" and status.heartbeat < since):
            return None, f"{self._title}: nobody builds it yet"
        if status.state == "failed":
            raise BuildError(f"{self._title}: the build by {status.host}:{status.pid} failed: {status.error}")
        return None, f"{self._title}: {status}"


class EnvironmentTrigger(BaseTrigger):
    """Fires when an environment's archive is in the store, or its build has failed.

    :param key: the environment's key.
    :param title: what people call the environment.
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`.
    :param since: seconds since the epoch; a build that failed earlier does not count.
    :param poke_interval: seconds between two looks.
    """

    def __init__(
        self,
        *,
        key: str,
        title: str,
        archive_store: str | None = None,
        since: float = 0.0,
        poke_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.key = key
        self.title = title
        self.archive_store = archive_store
        self.since = since
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "key": self.key,
                "title": self.title,
                "archive_store": self.archive_store,
                "since": self.since,
                "poke_interval": self.poke_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        # In threads: the triggerer's loop is shared, and a store may be a slow file system.
        try:
            store = await asyncio.to_thread(archive_store, self.archive_store)
            watch = BuildWatch(store, self.key, self.title)
            while True:
                archive, line = await asyncio.to_thread(watch.look, since=self.since)
                self.log.info("%s", line)
                if archive:
                    break
                await asyncio.sleep(self.poke_interval)
        except SparkDepsError as error:
            yield TriggerEvent({"error": str(error)})
        else:
            yield TriggerEvent({"archive": archive})
