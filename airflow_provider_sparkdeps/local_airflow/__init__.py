"""A complete Airflow on this machine, for the demo and the tests."""

from airflow_provider_sparkdeps.local_airflow.dag_runs import DagRunReport, DagRunTimeoutError
from airflow_provider_sparkdeps.local_airflow.instance import LocalAirflow

__all__ = ["DagRunReport", "DagRunTimeoutError", "LocalAirflow"]
