"""The operator that builds an environment's archive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_provider_sparkdeps.configuration import archive_store, build_timeout

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_sparkdeps.environments import Environment


class BuildEnvironmentOperator(BaseOperator):
    """Builds an environment, unless its archive is in the store already; returns the archive as a dict.

    :param environment: what to build.
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param build_timeout: seconds, instead of `[sparkdeps] build_timeout`.
    """

    template_fields: Sequence[str] = ("archive_store",)
    ui_color = "#e8f1e4"

    def __init__(
        self,
        *,
        environment: Environment,
        archive_store: str | None = None,
        build_timeout: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.environment = environment
        self.archive_store = archive_store
        self.build_timeout = build_timeout

    def execute(self, context: Context) -> dict[str, Any]:
        store = archive_store(self.archive_store)
        archive = store.build(self.environment, timeout=build_timeout(self.build_timeout), progress=self.log.info)
        return archive.to_dict()
