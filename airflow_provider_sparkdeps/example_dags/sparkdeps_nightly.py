"""Resolve an environment again each night; a new lock makes an asset event, on which another DAG runs."""

from __future__ import annotations

from airflow.sdk import Asset, Metadata, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator

tables = VenvEnvironment(["humanize==4.*", "numpy", "pyarrow"])
tables_archive = Asset(name="tables_archive", uri="x-sparkdeps://tables")


@dag(schedule="@daily", catchup=False, tags=["sparkdeps"])
def sparkdeps_nightly():
    refresh = BuildEnvironmentOperator(task_id="refresh", environment=tables, refresh=True)

    @task(outlets=[tables_archive])
    def announce(archive, published):
        if not published:
            raise AirflowSkipException("the packages resolve to what is there already")
        yield Metadata(tables_archive, extra={"digest": archive["sha256"]})

    announce(refresh.output, refresh.output["published"])


@dag(schedule=[tables_archive], tags=["sparkdeps"])
def sparkdeps_on_new_archive():
    @task
    def note(triggering_asset_events):
        digests = [event.extra["digest"] for events in triggering_asset_events.values() for event in events]
        print(f"new archive: {digests[-1]}")
        return digests[-1]

    note()


sparkdeps_nightly()
sparkdeps_on_new_archive()
