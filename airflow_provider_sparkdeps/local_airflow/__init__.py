"""An Airflow of its own on this machine, run as users run it: for the demo and the tests."""

from airflow_provider_sparkdeps.local_airflow.instance import LocalAirflow
from airflow_provider_sparkdeps.local_airflow.runs import DagRunReport, DagRunTimeout

__all__ = ["DagRunReport", "DagRunTimeout", "LocalAirflow"]
