"""Use packages from a conda channel on executors. No conda is needed, neither on the worker nor on the cluster."""

from __future__ import annotations

import os

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import CondaEnvironment

# A test replaces the channel and the package by its own.
channel = os.environ.get("SPARKDEPS_EXAMPLE_CHANNEL", "conda-forge")
package = os.environ.get("SPARKDEPS_EXAMPLE_PACKAGE", "humanize")

from_conda = CondaEnvironment([package], channels=[channel])


@dag(schedule=None, tags=["sparkdeps"])
def example_sparkdeps_conda():
    @task.spark_connect(environment=from_conda)
    def versions(spark):
        from pyspark.sql.functions import udf

        @udf("string")
        def version(name):  # runs on executors, in the conda environment
            import importlib.metadata
            import sys

            return f"{name} {importlib.metadata.version(name)} in {sys.prefix.rpartition('/')[2]}"

        return [row[0] for row in spark.createDataFrame([(package,)], "name string").select(version("name")).collect()]

    versions()


example_sparkdeps_conda()
