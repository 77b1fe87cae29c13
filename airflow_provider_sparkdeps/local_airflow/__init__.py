"""An Airflow of its own on this machine, run as users run it: for the demo and the tests."""

from airflow_provider_sparkdeps.local_airflow.dag_runs import DagRunReport, DagRunTimeoutError
from airflow_provider_sparkdeps.local_airflow.instance import LocalAirflow

__all__ = ["DagRunReport", "DagRunTimeoutError", "LocalAirflow"]
