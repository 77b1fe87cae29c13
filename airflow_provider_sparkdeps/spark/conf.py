"""The names of Spark's settings that this package reads or writes."""

from __future__ import annotations

# Spark's own.
PYTHON = "spark.sql.execution.pyspark.python"
PREFIX = "sparkdeps"  # the first directory in our values of PYTHON, which executors have for what they keep
# Whether UDFs and UDTFs exchange rows by Arrow by default; Spark 4.3 sets both to true.
ARROW = ("spark.sql.execution.pythonUDF.arrow.enabled", "spark.sql.execution.pythonUDTF.arrow.enabled")
PLANNER_MEMORY = "spark.sql.planner.pythonExecution.memory"  # in MB, or with a unit
RPC_SECURITY = ("spark.authenticate", "spark.network.crypto.enabled", "spark.ssl.rpc.enabled")

# Ours, in the session that they describe.
ATTACHED = "spark.sparkdeps.attached"
SAVED = "spark.sparkdeps.saved."  # + the name of a setting: its value before `attach` changed it
BROADCAST = "spark.sparkdeps.broadcast."  # + sha256 of a value that the session's files contain
CLOSURE_MAX_SIZE = "spark.sparkdeps.closure.maxSize"
# Ours, in the session that holds an uploaded file for other sessions.
CACHE_URI = "spark.sparkdeps.cache.uri"
CACHE_UPLOADER = "spark.sparkdeps.cache.uploader"
CACHE_FETCH_MODE = "spark.sparkdeps.cache.fetchMode."  # + scheme of the URI, or "other"
