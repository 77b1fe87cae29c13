"""Private parts of PySpark and Spark that this package relies on.

Tried with clients and servers 4.0.5, 4.1.4, 4.2.1 and 4.3.0. Look here first when a new release breaks something. Code
that runs on executors cannot import this module; its private parts are `_accumulatorRegistry` in
`accumulators/executor.py`, `SparkFiles` in `broadcast/executor.py`, the serializer in `driver_python/driver.py`, and in
`delivery/executor/` the directories in which Spark starts workers and the protocol of the driver's file server.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql.connect.client.retries import RetryPolicy
    from pyspark.sql.connect.session import SparkSession
    from pyspark.sql.types import StructType

ACCUMULATOR_METRIC = "__python_accumulator__"
"""Name of the observed metric in which Spark Connect returns accumulator updates."""


def decompress_plan(operation: Any) -> Any:
    """Return the `Command` or `Relation` in a `CompressedOperation`, as PySpark 4.1 and later send large plans."""
    # PySpark compresses only if zstandard is installed.
    import pyspark.sql.connect.proto as pb2
    import zstandard

    kind = pb2.Command if operation.op_type == operation.OP_TYPE_COMMAND else pb2.Relation
    # Not `zstandard.decompress`: it requires the size in the frame.
    return kind.FromString(zstandard.ZstdDecompressor().decompress(operation.data))


def decompress_request(request: Any) -> Any:
    """Return a request with an uncompressed plan. PySpark compresses large plans."""
    import pyspark.sql.connect.proto as pb2

    if not isinstance(request, pb2.ExecutePlanRequest) or request.plan.WhichOneof("op_type") != "compressed_operation":
        return request
    compressed = request.plan.compressed_operation
    decompressed = pb2.ExecutePlanRequest()
    decompressed.CopyFrom(request)
    is_command = compressed.op_type == compressed.OP_TYPE_COMMAND
    plan = decompressed.plan.command if is_command else decompressed.plan.root
    plan.CopyFrom(decompress_plan(compressed))
    return decompressed


def accumulator_serializer() -> Any:
    """Return PySpark's restricted serializer of accumulator updates; None in older releases of 4.0, 4.1 and 4.2."""
    from pyspark import accumulators

    return getattr(accumulators, "specialAccumulatorSer", None)


def is_pickled_by_reference(value: ModuleType | FunctionType | type) -> bool:
    """Return whether cloudpickle pickles a function, class or module by name instead of by value."""
    from pyspark.cloudpickle import Pickler

    if isinstance(value, ModuleType):
        reduced: Any = Pickler.dispatch_table[ModuleType](value)
        return bool(reduced[0].__name__ == "subimport")
    return _reduced(value) is NotImplemented


def pickled_attributes(value: type) -> dict[str, Any]:
    """Return the attributes that cloudpickle takes of a class that is pickled by value; none if it fails."""
    reduced = _reduced(value)
    return dict(reduced[2][0]) if isinstance(reduced, tuple) and len(reduced) > 2 else {}


def cloudpickle_reducers() -> Any:
    """Return cloudpickle's own reducers by type. What is added to them does not affect `pickle`."""
    from pyspark.cloudpickle import Pickler

    # A ChainMap over those of `copyreg`, which come second.
    return Pickler.dispatch_table


def reduced(value: Any) -> Any:
    """Return what cloudpickle makes of an object that is neither a function nor a class.

    :raises Exception: whatever the object's class raises.
    """
    from pyspark.cloudpickle import Pickler

    reducer = Pickler.dispatch_table.get(type(value))
    return reducer(value) if reducer else value.__reduce_ex__(5)


def _reduced(value: Any) -> Any:
    from pyspark.cloudpickle import Pickler

    pickler: Any = Pickler
    try:
        return pickler(io.BytesIO()).reducer_override(value)
    except Exception:  # noqa: BLE001 (whoever pickles it gets the error)
        return None


def set_server_side_id(spark: SparkSession, server_side_id: str) -> None:
    """Send the server's own id of the session with each request, so that a restarted server rejects them."""
    spark.client._server_session_id = server_side_id


def schema_of_udtf(spark: SparkSession, handler: type) -> StructType:
    """Return the schema that `analyze` of a UDTF returns, which Spark runs in the driver's Python.

    :raises PySparkException: if it fails.
    """
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.udtf import UserDefinedTableFunction

    plan = UserDefinedTableFunction(handler, None)._build_common_inline_user_defined_table_function()
    return DataFrame(plan, spark).schema


def activate(spark: SparkSession) -> Callable[[], None]:
    """Make a session the active one of this thread, which the pandas API on Spark uses.

    :return: makes the session active again that was so before, or none.
    """
    from pyspark.sql.connect.session import SparkSession as ConnectSession

    local = ConnectSession._active_session
    before = getattr(local, "session", None)
    local.session = spark

    def restore() -> None:
        if getattr(local, "session", None) is spark:
            local.session = None if before is None or before.is_stopped else before

    return restore


def stop_released_session(spark: SparkSession) -> None:
    """Stop a session that the server has already released; requests that are still running are not retried."""
    spark.release_session_on_close = False
    spark.client.set_retry_policies([])
    spark.client._channel.close()
    spark.stop()


def driver_file_uri(spark: SparkSession, server_side_id: str, name: str) -> str | None:
    """Return the URI at which the driver serves a file of a session to executors; None if it does not list one.

    :param server_side_id: the server's own id of the session, which may be another than `spark`: the server lists the
        files of all sessions.
    """
    from pyspark.errors import PySparkException

    end = f"/artifacts/{server_side_id}/files/{name}"
    try:
        rows = spark.sql("LIST FILES").collect()
    except PySparkException:
        return None
    return next((row[0] for row in rows if row[0].endswith(end)), None)


def timed_retries(
    timeout: float,
    *,
    max_backoff: float,
    on_failure: Callable[[BaseException], None],
    on_give_up: Callable[[BaseException], None],
) -> RetryPolicy:
    """Return PySpark's default retry policy with a limit of time instead of a number of retries.

    :param timeout: seconds from the first failure of a call until it is given up.
    :param max_backoff: maximum seconds between two attempts.
    :param on_failure: called with the error of a call's first failure.
    :param on_give_up: called with the last error.
    """
    from pyspark.sql.connect.client.retries import DefaultPolicy, RetryPolicyState

    class TimedState(RetryPolicyState):
        failure: BaseException | None = None
        deadline: float | None = None

        def can_retry(self, exception: BaseException) -> bool:
            self.failure = exception
            return bool(super().can_retry(exception))

        def next_attempt(self, *exception: Any) -> int | None:
            now = time.monotonic()
            if self.deadline is None:
                self.deadline = now + timeout
                if self.failure:
                    on_failure(self.failure)
            left = int((self.deadline - now) * 1000)
            wait = super().next_attempt(*exception)
            if wait is not None and left > 0:
                return min(wait, left)
            if self.failure:
                on_give_up(self.failure)
            return None

    class TimedRetries(DefaultPolicy):
        def to_state(self) -> RetryPolicyState:
            return TimedState(self)

    return TimedRetries(max_retries=None, max_backoff=int(max_backoff * 1000))
