"""The operator that builds an environment's archive."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_sparkdeps.configuration import archive_store, build_timeout, logins_for
from airflow_provider_sparkdeps.exceptions import ArchiveError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_sparkdeps.archives import ArchiveStore
    from airflow_provider_sparkdeps.environments import Environment


class BuildEnvironmentOperator(BaseOperator):
    """Builds an environment, unless its archive is in the store already; returns the archive as a dict.

    XCom has, under the key `published`, whether the archive is a new one.

    :param environment: what to build.
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds, instead of `[sparkdeps] build_timeout`.
    :param refresh: resolve again even if there is an archive; publish a new one only if the lock has changed.
    :param max_age: the same, if the archive was built, and last looked at so, longer ago; seconds or a timedelta.
    """

    template_fields: Sequence[str] = ("archive_store",)
    ui_color = "#e8f1e4"

    def __init__(
        self,
        *,
        environment: Environment,
        archive_store: str | None = None,
        build_timeout: float | None = None,
        refresh: bool = False,
        max_age: timedelta | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.environment = environment
        self.archive_store = archive_store
        self.build_timeout = build_timeout
        self.refresh = refresh
        self.max_age = max_age

    def execute(self, context: Context) -> dict[str, Any]:
        store = archive_store(self.archive_store)
        before = _digest(store, self.environment)
        archive = store.build(
            self.environment,
            timeout=build_timeout(self.build_timeout),
            progress=self.log.info,
            refresh=self.refresh,
            max_age=self.max_age,
            logins=logins_for(self.environment),
        )
        context["ti"].xcom_push(key="published", value=archive.sha256 != before)
        return archive.to_dict()


def _digest(store: ArchiveStore, environment: Environment) -> str | None:
    try:
        archive = store.find(environment)
    except ArchiveError:
        return None  # damaged: it will be built again
    return archive.sha256 if archive else None
