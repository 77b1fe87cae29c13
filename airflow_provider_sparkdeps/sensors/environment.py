"""The sensor that waits for an environment's archive to be built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_provider_sparkdeps.configuration import archive_store, default_deferrable
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.triggers.environment import BuildWatch, EnvironmentTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class EnvironmentSensor(BaseSensorOperator):
    """Waits until the archive of an environment is in the store; its XCom is the archive as a dict.

    Fails at once, with the builder's own error, when the build fails. Failures from before the DAG run do not count:
    somebody may be about to build.

    :param environment: what is waited for.
    :param archive_store: directory or URL instead of `[sparkdeps] archive_store`. (templated)
    :param deferrable: wait in the triggerer, without a worker slot.
    :raises InvalidArgumentError: at DAG parse, when `environment` is none.
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
                f"environment is a {type(environment).__name__}: give an environment, as the builder has"
            )
        self.environment = environment
        self.archive_store = archive_store
        self.deferrable = default_deferrable() if deferrable is None else deferrable

    def execute(self, context: Context) -> Any:
        if not self.deferrable:
            return super().execute(context)
        ready = self.poke(context)
        if isinstance(ready, PokeReturnValue):
            return ready.xcom_value
        self.defer(
            trigger=EnvironmentTrigger(
                key=self.environment.key,
                title=self.environment.title,
                archive_store=self.archive_store,
                since=_since(context),
                poke_interval=self.poke_interval,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=self.timeout),
        )

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Called when the trigger has seen the archive, or the failure of its build.

        :raises BuildError: the build failed, or the store can't be read.
        """
        if "error" in event:
            raise BuildError(event["error"])
        return dict(event["archive"])

    def poke(self, context: Context) -> bool | PokeReturnValue:
        watch = BuildWatch(archive_store(self.archive_store), self.environment.key, self.environment.title)
        archive, line = watch.look(since=_since(context))
        self.log.info("%s", line)
        return PokeReturnValue(is_done=True, xcom_value=archive) if archive else False


def _since(context: Context) -> float:
    started = context["dag_run"].start_date
    return started.timestamp() if started else 0.0
