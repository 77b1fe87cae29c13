"""EnvironmentTrigger: waits for the archive of an environment in the triggerer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_sparkdeps.archives.status import BuildWatcher
from airflow_provider_sparkdeps.configuration import archive_store
from airflow_provider_sparkdeps.exceptions import SparkDepsError


class EnvironmentTrigger(BaseTrigger):
    """Fires when the archive of an environment is in the store, or its build has failed.

    :param key: key of the environment.
    :param title: of the environment, for logs and errors.
    :param archive_store: directory or URL of the store; by default `[sparkdeps] archive_store`.
    :param failed_since: seconds since the epoch. Builds that failed earlier are ignored.
    :param poke_interval: seconds between two checks.
    """

    def __init__(
        self,
        *,
        key: str,
        title: str,
        archive_store: str | None = None,
        failed_since: float = 0.0,
        poke_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.key = key
        self.title = title
        self.archive_store = archive_store
        self.failed_since = failed_since
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "key": self.key,
                "title": self.title,
                "archive_store": self.archive_store,
                "failed_since": self.failed_since,
                "poke_interval": self.poke_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        watcher = BuildWatcher(self.title, self.log.info, failed_since=self.failed_since)
        # Threads, because the store may be a slow file system and other triggers share the event loop.
        try:
            store = await asyncio.to_thread(archive_store, self.archive_store)
            while not (archive := await asyncio.to_thread(store.find, self.key)):
                watcher.check(await asyncio.to_thread(store.status, self.key))
                watcher.log_progress()
                await asyncio.sleep(self.poke_interval)
        except SparkDepsError as error:
            yield TriggerEvent({"error": str(error)})
        else:
            self.log.info("Found archive %s of %s.", archive.short_digest, self.title)
            yield TriggerEvent({"archive": archive.to_dict()})
