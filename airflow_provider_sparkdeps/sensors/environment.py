"""EnvironmentSensor: waits for the archive of an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_sparkdeps.archives.status import BuildWatcher
from airflow_provider_sparkdeps.configuration import archive_store, default_deferrable
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.triggers.environment import EnvironmentTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class EnvironmentSensor(BaseSensorOperator):
    """Waits until the archive of an environment is in the store, and returns the archive as a dict.

    Fails as soon as the build fails, with the error message of the builder. Builds that failed before the DAG run
    started are ignored, because the build may be about to be retried.

    :param environment: the environment to wait for.
    :param archive_store: directory or URL of the store; by default `[sparkdeps] archive_store`. (templated)
    :param deferrable: wait in the triggerer, without a worker slot.
    :raises InvalidArgumentError: if `environment` is not an environment.
    """

    template_fields: Sequence[str] = ("archive_store",)
    ui_color = "#e8f1e4"

    def __init__(
        self,
        *,
        environment: Environment,
        archive_store: str | None = None,
        deferrable: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(environment, Environment):
            raise InvalidArgumentError(
                f"environment must be an Environment, not a {type(environment).__name__}. Pass the one that is built,"
                " e.g. a VenvEnvironment."
            )
        self.environment = environment
        self.archive_store = archive_store
        self.deferrable = default_deferrable() if deferrable is None else deferrable

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        result = self.poke(context)
        if isinstance(result, PokeReturnValue):
            return result.xcom_value
        self.defer(
            trigger=EnvironmentTrigger(
                key=self.environment.key,
                title=self.environment.title,
                archive_store=self.archive_store,
                failed_since=_run_start(context),
                poke_interval=self.poke_interval,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Return the archive from the trigger's event.

        :raises BuildError: if the build failed, or the store can't be read.
        """
        if "error" in event:
            raise BuildError(event["error"])
        return dict(event["archive"])

    def poke(self, context: Context) -> bool | PokeReturnValue:
        store = archive_store(self.archive_store)
        if archive := store.find(self.environment):
            self.log.info("Found archive %s of %s.", archive.short_digest, self.environment.title)
            return PokeReturnValue(is_done=True, xcom_value=archive.to_dict())
        watcher = BuildWatcher(self.environment.title, self.log.info, failed_since=_run_start(context))
        watcher.check(store.status(self.environment))
        watcher.log_progress()
        return False


def _run_start(context: Context) -> float:
    started = context["dag_run"].start_date
    return started.timestamp() if started else 0.0
