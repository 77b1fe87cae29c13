"""The DAGs that the package brings."""

from airflow_provider_sparkdeps.example_dags.sparkdeps_nightly import *  # noqa: F403
from airflow_provider_sparkdeps.example_dags.sparkdeps_quickstart import *  # noqa: F403
