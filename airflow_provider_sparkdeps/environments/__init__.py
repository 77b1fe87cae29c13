"""Specifications of environments, and how each kind is built. Does not use Airflow or Spark."""

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.conda import CondaEnvironment
from airflow_provider_sparkdeps.environments.context import Login
from airflow_provider_sparkdeps.environments.pex import PexEnvironment
from airflow_provider_sparkdeps.environments.venv import VenvEnvironment

__all__ = ["CondaEnvironment", "Environment", "Login", "PexEnvironment", "VenvEnvironment"]
