"""Floor 1: wishes, that is what to install, and how each kind is built. Knows neither Airflow nor Spark."""

from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.conda import CondaEnvironment
from airflow_provider_sparkdeps.environments.context import Login
from airflow_provider_sparkdeps.environments.pex import PexEnvironment
from airflow_provider_sparkdeps.environments.venv import VenvEnvironment

__all__ = ["CondaEnvironment", "Environment", "Login", "PexEnvironment", "VenvEnvironment"]
