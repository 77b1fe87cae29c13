"""Resolve an environment again each night. If its packages changed, an asset event starts another DAG."""

from __future__ import annotations

from airflow.sdk import Asset, Metadata, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_sparkdeps import VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator

tables = VenvEnvironment(["humanize==4.*", "numpy", "pyarrow"])
tables_archive = Asset(name="tables_archive", uri="x-sparkdeps://tables")


@dag(schedule="@daily", catchup=False, tags=["sparkdeps"])
def example_sparkdeps_nightly_refresh():
    refresh = BuildEnvironmentOperator(task_id="refresh", environment=tables, refresh=True)

    @task(outlets=[tables_archive])
    def announce(archive, published):
        if not published:
            raise AirflowSkipException("The packages have not changed.")
        yield Metadata(tables_archive, extra={"sha256": archive["sha256"]})

    announce(refresh.output, refresh.output["published"])


@dag(schedule=[tables_archive], tags=["sparkdeps"])
def example_sparkdeps_on_new_archive():
    @task
    def note(triggering_asset_events):
        digests = [event.extra["sha256"] for events in triggering_asset_events.values() for event in events]
        print(f"New archive: {digests[-1]}")
        return digests[-1]

    note()


example_sparkdeps_nightly_refresh()
example_sparkdeps_on_new_archive()
