"""Large functions are reported with their variable, and too large ones are not sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyspark.sql.connect.proto as pb2
import pytest
import zstandard
from pyspark import cloudpickle
from pyspark.sql.datasource import DataSource
from pyspark.sql.functions import udf, udtf
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import StringType

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
from airflow_provider_sparkdeps.spark.conf import CLOSURE_MAX_SIZE
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session


def request_with(**functions: Any) -> pb2.ExecutePlanRequest:
    """Return a query that uses these functions, as PySpark's client pickles them."""
    request = pb2.ExecutePlanRequest()
    for name, function in functions.items():
        use = request.plan.root.project.expressions.add().alias.expr.common_inline_user_defined_function
        use.function_name = name
        use.python_udf.command = cloudpickle.dumps((function, StringType()))
    return request


def test_small_functions_and_data_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    size_limit = RequestSizeLimit()
    size_limit.check(request_with(score=lambda x: x))
    data = pb2.ExecutePlanRequest()
    data.plan.root.local_relation.data = bytes(100_000_000)
    size_limit.check(data)
    assert caplog.messages == []


def test_a_large_function_is_logged_once_with_its_largest_variable(caplog: pytest.LogCaptureFixture) -> None:
    table = np.ones(1_000_000)
    size_limit = RequestSizeLimit()
    for _ in range(2):
        size_limit.check(request_with(score=lambda x: table[x], other=lambda x: x))
    (message,) = caplog.messages
    assert message == (
        "Function 'score' adds 8.0 MB to every query that uses it. The largest variable of 'score' is `table` in "
        "<lambda>. Write `table = broadcast(table)` in the callable, and use `table.value` in the function."
    )


@pytest.mark.parametrize("kind", ["query", "schema", "command"])
def test_functions_in_a_compressed_plan_are_checked(kind: str) -> None:
    array = np.ones(1_000_000)
    query = request_with(score=lambda x: array[x]).plan.root
    command = pb2.Command(create_dataframe_view=pb2.CreateDataFrameViewCommand(input=query, name="v"))
    compressed = pb2.Plan.CompressedOperation(
        data=zstandard.compress((command if kind == "command" else query).SerializeToString()),
        op_type=getattr(pb2.Plan.CompressedOperation, "OP_TYPE_COMMAND" if kind == "command" else "OP_TYPE_RELATION"),
        compression_codec=pb2.CompressionCodec.COMPRESSION_CODEC_ZSTD,
    )
    plan = pb2.Plan(compressed_operation=compressed)
    schema = pb2.AnalyzePlanRequest.Schema(plan=plan)
    request = pb2.AnalyzePlanRequest(schema=schema) if kind == "schema" else pb2.ExecutePlanRequest(plan=plan)
    assert request.ByteSize() < 10_000
    message = (
        r"^Function 'score' is too large to send: 8\.0 MB pickled is .* The largest variable of 'score' is `array`"
    )
    with pytest.raises(SessionError, match=message):
        RequestSizeLimit({CLOSURE_MAX_SIZE: "2m"}).check(request)


def test_the_limit_is_for_all_functions_of_a_request() -> None:
    table = np.ones(150_000)
    size_limit = RequestSizeLimit({CLOSURE_MAX_SIZE: "2m"})
    size_limit.check(request_with(one=lambda x: table[x]))
    message = (
        r"2 functions are too large to send: 2\.4 MB pickled is over the limit of 2\.1 MB.* of '(one|two)' is `table`"
    )
    with pytest.raises(SessionError, match=message):
        size_limit.check(request_with(one=lambda x: table[x], two=lambda x: table[x]))


@pytest.mark.parametrize("text", ["lots", "200m", "1g", "-1", ""])
def test_an_invalid_limit_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"spark\.sparkdeps\.closure\.maxSize=.* is not a size up to 120m"):
        RequestSizeLimit({CLOSURE_MAX_SIZE: text})


@pytest.fixture
def limited(server: EmbeddedServer) -> Iterator[Session]:
    """A session with a limit of 1 MB."""
    with Session(Endpoint(host=server.host, port=server.port, session_conf={CLOSURE_MAX_SIZE: "1m"})) as session:
        yield session


def test_a_closure_of_100_mb_is_refused_before_it_is_sent(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = np.zeros(13_000_000)
    sent: list[int] = []
    on_request = session._collector.on_request

    def listen(request: Any) -> Any:
        sent.append(request.ByteSize())
        return on_request(request)

    monkeypatch.setattr(session._collector, "on_request", listen)

    def parse(x: int) -> Any:
        return float(lookup[x])

    @udf("double")
    def score(x: int) -> Any:
        return parse(x)

    with pytest.raises(SessionError) as caught:
        session.spark.range(3).select(score("id")).collect()
    assert str(caught.value) == (
        "Function 'score' is too large to send: 104.0 MB pickled is over the limit of 64.0 MB, which protects the "
        "memory of the server. The largest variable of 'score' is `lookup` in score -> parse. Write "
        "`lookup = broadcast(lookup)` in the callable, and use `lookup.value` in the function. Or set "
        "spark.sparkdeps.closure.maxSize in the connection's session conf."
    )
    assert max(sent, default=0) < 100_000
    assert session.spark.range(3).count() == 3


class Rows(DataSource):
    """The base of a data source with a large attribute."""

    @classmethod
    def name(cls) -> str:
        return "rows"

    def schema(self) -> str:
        return "x int"


def queries() -> dict[str, Callable[[Any, Any], Any]]:
    """Return all kinds of queries that contain a function, given a session and a large value."""

    series_udf: Any = pandas_udf

    def source(spark: Any, large: Any) -> Any:
        kind = type("Rows", (Rows,), {"__module__": "__main__", "large": large})
        return spark.dataSource.register(kind)

    def table(spark: Any, large: Any) -> Any:
        class Table:
            def eval(self) -> Any:
                yield (len(large),)

        function: Any = udtf(Table, returnType="x int", useArrow=False)
        return function().collect()

    def stream(spark: Any, large: Any) -> Any:
        rate = spark.readStream.format("rate").load()
        return rate.writeStream.foreachBatch(lambda frame, number: len(large)).start()

    return {
        "udf": lambda spark, large: spark.range(1).select(udf(lambda x: str(large), "string")("id")).collect(),
        "pandas_udf": lambda spark, large: (
            spark.range(1).select(series_udf(lambda x: x + len(large), "long")("id")).collect()
        ),
        "analyze": lambda spark, large: spark.range(1).mapInPandas(lambda it: (large, it)[1], "id long").isLocal(),
        "filter": lambda spark, large: spark.range(1).where(udf(lambda x: bool(large), "boolean")("id")).count(),
        "mapInPandas": lambda spark, large: spark.range(1).mapInPandas(lambda it: (large, it)[1], "id long").collect(),
        "applyInPandas": lambda spark, large: (
            spark.range(1).groupBy("id").applyInPandas(lambda f: (large, f)[1], "id long").collect()
        ),
        "foreach": lambda spark, large: spark.range(1).foreach(lambda row: len(large)),
        "foreachPartition": lambda spark, large: spark.range(1).foreachPartition(lambda rows: len(large)),
        "register": lambda spark, large: spark.udf.register("large", lambda x: len(large), "int"),
        "view": lambda spark, large: (
            spark.range(1).select(udf(lambda x: str(large), "string")("id")).createOrReplaceTempView("v")
        ),
        "write": lambda spark, large: (
            spark.range(1).select(udf(lambda x: str(large), "string")("id")).write.format("noop").mode("append").save()
        ),
        "udtf": table,
        "data source": source,
        "stream": stream,
    }


@pytest.mark.parametrize("query", queries())
def test_functions_are_checked_in_all_kinds_of_queries(query: str, limited: Session) -> None:
    large = np.zeros(200_000)
    with pytest.raises(SessionError, match=r"1\.6 MB pickled is over the limit .* is `large`"):
        queries()[query](limited.spark, large)


def test_an_invalid_limit_is_an_error_when_the_session_is_opened(server: EmbeddedServer) -> None:
    endpoint = Endpoint(host=server.host, port=server.port, session_conf={CLOSURE_MAX_SIZE: "lots"})
    with pytest.raises(InvalidArgumentError, match=r"closure\.maxSize='lots' is not a size"), Session(endpoint):
        pass
