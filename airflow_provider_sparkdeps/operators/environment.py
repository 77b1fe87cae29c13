"""BuildEnvironmentOperator: builds the archive of an environment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_sparkdeps.configuration import archive_store, build_timeout
from airflow_provider_sparkdeps.connections import logins_for

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_sparkdeps.environments import Environment


class BuildEnvironmentOperator(BaseOperator):
    """Builds an environment, unless its archive is already in the store, and returns the archive as a dict.

    Pushes the XCom `published`: whether this task has published a new archive.

    :param environment: the environment to build.
    :param archive_store: directory or URL of the store; by default `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds until the build fails; by default `[sparkdeps] build_timeout`.
    :param refresh: resolve the environment again even if it has an archive. A new archive is published only if the lock
        has changed or the payload is damaged.
    :param max_age: like `refresh`, if the archive was built and last checked longer ago; seconds or a timedelta.
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
        archive = archive_store(self.archive_store).build(
            self.environment,
            timeout=build_timeout(self.build_timeout),
            progress=self.log.info,
            refresh=self.refresh,
            max_age=self.max_age,
            logins=logins_for(self.environment),
        )
        context["ti"].xcom_push(key="published", value=archive.published)
        return archive.to_dict()
