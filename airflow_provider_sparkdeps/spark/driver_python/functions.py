"""Finds functions in requests that Spark runs in the driver's Python, and gives them the session's environment.

These are functions of `foreachBatch`, UDTFs with `analyze`, processors of `transformWithState`, and Python data
sources.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.driver_python import driver
from airflow_provider_sparkdeps.spark.pyspark_compat import decompress_request, schema_of_udtf
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

log = logging.getLogger(__name__)

# In the pickle of a function that uses a broadcast variable.
_BROADCAST = b"_unpickle_reference"
_PROCESSOR = "the processor of transformWithState"


class DriverPython:
    """The driver's Python for the functions of one session.

    :param spark: returns the session.
    :param interpreter_of: returns the interpreter of the session with an id, which may be a clone of that session.
    """

    def __init__(self, spark: Callable[[], SparkSession], interpreter_of: Callable[[str], str]) -> None:
        self._spark = spark
        self._interpreter_of = interpreter_of
        # interpreter -> what the driver found
        self._found: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._looking = threading.local()
        self._warned: set[str] = set()

    def wrap(self, request: Any) -> Any:
        """Return a request in which such functions have the packages of the attached environment.

        If the driver can't use the environment, a warning names the function and the reason.
        """
        if getattr(self._looking, "now", False):
            return request
        plain = decompress_request(request)
        if not any(_functions(plain)):
            return request
        interpreter = self._interpreter_of(plain.session_id)
        if not interpreter.startswith(f"{conf.PREFIX}/"):
            interpreter = ""
        # PySpark may send its request again.
        changed = type(plain)()
        changed.CopyFrom(plain)
        for kind, function in _functions(changed):
            if not interpreter and _BROADCAST not in function.command:
                continue
            found = self._look(interpreter)
            if "error" in found:
                self._warn(kind, function.command, found["error"])
            if "session" in found:
                function.command = _wrapped(function.command, found, everywhere=kind == _PROCESSOR)
        return changed

    def _look(self, interpreter: str) -> dict[str, Any]:
        """Ask the driver for the packages of an environment, until it knows them."""
        with self._lock:
            found = self._found.get(interpreter)
            if found is None:
                self._looking.now = True
                try:
                    found = _ask_driver(self._spark(), interpreter)
                finally:
                    self._looking.now = False
                if "error" not in found:
                    self._found[interpreter] = found
            return found

    def _warn(self, kind: str, pickled: bytes, reason: str) -> None:
        name = f"{kind} {_name(pickled)}"
        if name not in self._warned:
            self._warned.add(name)
            log.warning(
                "Spark runs %s in the Python of its driver, where packages of the environment are missing: %s.",
                name,
                reason.rstrip("."),
            )


def _functions(request: Any) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the message of each function that Spark runs on the driver."""
    for field, value in request.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for message in [value] if hasattr(value, "ListFields") else value:
            name = message.DESCRIPTOR.name
            if field.name == "foreach_batch":
                yield "the foreachBatch function", message.python_function
            # PySpark 4.0 has no such field.
            elif name == "GroupMap" and "transform_with_state_info" in {each.name for each, _ in message.ListFields()}:
                # Before the first batch, Spark calls `init` of the processor on the driver. On executors it does not
                # use the session's interpreter for it.
                yield _PROCESSOR, message.func.python_udf
                yield from _functions(message.input)
            elif name == "PythonDataSource":
                yield "data source", message
            elif name != "PythonUDTF":
                yield from _functions(message)
            elif not message.HasField("return_type"):
                yield "`analyze` of UDTF", message


def _ask_driver(spark: SparkSession, interpreter: str) -> dict[str, Any]:
    """Run `find_environment` on the driver: in `analyze` of a UDTF, whose schema says what it returned."""
    from pyspark.cloudpickle import register_pickle_by_value
    from pyspark.errors import PySparkException
    from pyspark.sql.types import StructType
    from pyspark.sql.udtf import AnalyzeResult

    register_pickle_by_value(driver)

    class FindEnvironment:
        @staticmethod
        def analyze() -> AnalyzeResult:
            return AnalyzeResult(StructType().add(json.dumps(driver.find_environment(interpreter)), "string"))

        def eval(self) -> None: ...

    try:
        answer: dict[str, Any] = json.loads(schema_of_udtf(spark, FindEnvironment).names[0])
    except PySparkException as error:
        return {"error": first_line(error)}
    return answer


def _wrapped(pickled: bytes, found: dict[str, Any], *, everywhere: bool) -> bytes:
    from pyspark.cloudpickle import dumps, register_pickle_by_value

    register_pickle_by_value(driver)
    wrapped: bytes = dumps(driver._Wrapped(pickled, found, everywhere))
    return wrapped


def _name(pickled: bytes) -> str:
    from pyspark.cloudpickle import loads

    try:
        return f"{getattr(loads(pickled), '__qualname__', '?')}"
    except Exception:  # noqa: BLE001 (the name is only for a message)
        return "?"
