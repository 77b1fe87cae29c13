"""Two concurrent tasks with two versions of one package."""

import time
from pathlib import Path

from airflow.sdk import dag, task

from airflow_provider_sparkdeps import VenvEnvironment

VERSIONS = {"old": "1.15.0", "new": "1.16.0"}


@dag(schedule=None)
def two_versions():
    for name, version in VERSIONS.items():
        other = next(one for one in VERSIONS if one != name)
        environment = VenvEnvironment([f"six=={version}", "pyarrow"])

        @task.spark_connect(task_id=name, environment=environment)
        def run(spark, params, name, other):
            from pyspark.sql.functions import udf

            @udf("string")
            def seen(_):
                import sys

                import six

                return f"{six.__version__} {sys.prefix}"

            # Each waits until the other has its session, too.
            meeting = Path(params["meeting"])
            (meeting / name).touch()
            deadline = time.monotonic() + 300
            while not (meeting / other).exists():
                if time.monotonic() > deadline:
                    raise TimeoutError(other)
                time.sleep(0.1)
            return sorted({row[0] for row in spark.range(0, 8, 1, 4).select(seen("id")).collect()})

        run(name=name, other=other)


two_versions()
