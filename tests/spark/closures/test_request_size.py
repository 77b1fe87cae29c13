"""Functions are weighed before they are sent: large ones are named with their variable, too large ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyspark.sql.connect.proto as pb2
import pytest
import zstandard
from pyspark import cloudpickle
from pyspark.sql.connect.functions import pandas_udf, udf, udtf
from pyspark.sql.datasource import DataSource
from pyspark.sql.types import StringType

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.closures import largest_variable
from airflow_provider_sparkdeps.spark.closures.largest_variable import largest_part
from airflow_provider_sparkdeps.spark.closures.request_size import RequestSizeLimit
from airflow_provider_sparkdeps.spark.conf import CLOSURE_MAX_SIZE
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session


def request_with(**functions: Any) -> pb2.ExecutePlanRequest:
    """A query that uses these functions, as PySpark's client pickles them."""
    request = pb2.ExecutePlanRequest()
    for name, function in functions.items():
        use = request.plan.root.project.expressions.add().alias.expr.common_inline_user_defined_function
        use.function_name = name
        use.python_udf.command = cloudpickle.dumps((function, StringType()))
    return request


def variables(many: int) -> dict[str, tuple[Any, str, tuple[str, ...]]]:
    """Functions whose largest variable is known: the function, the variable's name, and its owners'."""
    array, table, texts = np.ones(many), dict.fromkeys(range(many), 1.5), [str(number) for number in range(many)]
    little = [1, 2]

    def cell(x: int) -> Any:
        return little, array[x]

    def table_cell(x: int) -> Any:
        return little, table[x]

    def inner(x: int) -> Any:
        return little, texts[x]

    def outer(x: int) -> Any:
        return inner(x), little

    def default(x: int, *, known: Any = table) -> Any:
        return known[x]

    class Rows:
        table = texts

        def eval(self, x: int) -> Any:
            yield self.table[x]

    namespace: dict[str, Any] = {"LITTLE": 3, "TABLE": table, "OTHER": 4, "__name__": "__main__"}
    exec("def score(x):\n    return LITTLE, TABLE[x], OTHER", namespace)
    exec("def alone(x):\n    return TABLE[x]", namespace)
    return {
        "an array in a cell": (cell, "array", ("cell",)),
        "a dict in a cell": (table_cell, "table", ("table_cell",)),
        "in a captured function": (outer, "texts", ("outer", "inner")),
        "a keyword default": (default, "known", ("default",)),
        "a class attribute": (Rows, "table", ("Rows",)),
        "a global": (namespace["score"], "TABLE", ("score",)),
        "the only global": (namespace["alone"], "TABLE", ("alone",)),
    }


@pytest.mark.parametrize("name", variables(1))
def test_the_largest_variable_is_read_from_a_pickle(name: str) -> None:
    function, variable, owner = variables(50_000)[name]
    pickled = cloudpickle.dumps((function, StringType()))
    part = largest_part(pickled)
    assert part is not None
    assert (part.name, part.owner, part.read) == (variable, owner, True)
    assert part.size == pytest.approx(len(pickled), rel=0.02)


@pytest.mark.parametrize("name", [name for name in variables(1) if "array" not in name])
def test_of_a_variable_with_too_many_parts_the_name_is_known_all_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(largest_variable, "_MAX_OPS", 20_000)
    function, variable, owner = variables(50_000)[name]
    part = largest_part(cloudpickle.dumps((function, StringType())))
    assert part is not None
    assert (part.name, part.owner[-1], part.read) == (variable, owner[-1], False)


def test_reading_a_pickle_runs_nothing_and_takes_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('it was run')",)

    for pickled in (cloudpickle.dumps(Hostile()), b"", b"nonsense", cloudpickle.dumps(len)[:-5], cloudpickle.dumps(3)):
        assert largest_part(pickled) is None


def test_small_functions_pass_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    scales = RequestSizeLimit()
    scales.check(request_with(score=lambda x: x))
    data = pb2.ExecutePlanRequest()
    data.plan.root.local_relation.data = bytes(100_000_000)
    scales.check(data)
    assert caplog.messages == []


def test_a_large_function_is_warned_of_once_with_its_variable(caplog: pytest.LogCaptureFixture) -> None:
    table = np.ones(1_000_000)
    scales = RequestSizeLimit()
    for _ in range(2):
        scales.check(request_with(score=lambda x: table[x], other=lambda x: x))
    (message,) = caplog.messages
    assert message == (
        "function 'score' is 8.0 MB pickled, 8.0 MB of it in its variable `table` (in <lambda>), which travels with "
        "each use in each query: write `table = broadcast(table)` in the callable, and `table.value` in the function"
    )


@pytest.mark.parametrize("kind", ["query", "schema", "command"])
def test_functions_in_a_compressed_plan_are_weighed_too(kind: str) -> None:
    plain = request_with(score=variables(1_000_000)["an array in a cell"][0]).plan.root
    command = pb2.Command(create_dataframe_view=pb2.CreateDataFrameViewCommand(input=plain, name="v"))
    compressed = pb2.Plan.CompressedOperation(
        data=zstandard.compress((command if kind == "command" else plain).SerializeToString()),
        op_type=getattr(pb2.Plan.CompressedOperation, "OP_TYPE_COMMAND" if kind == "command" else "OP_TYPE_RELATION"),
        compression_codec=pb2.CompressionCodec.COMPRESSION_CODEC_ZSTD,
    )
    plan = pb2.Plan(compressed_operation=compressed)
    schema = pb2.AnalyzePlanRequest.Schema(plan=plan)
    request = pb2.AnalyzePlanRequest(schema=schema) if kind == "schema" else pb2.ExecutePlanRequest(plan=plan)
    assert request.ByteSize() < 10_000
    with pytest.raises(
        SessionError, match=r"function 'score' is 8\.0 MB pickled, 8\.0 MB of it in its variable `array`"
    ):
        RequestSizeLimit({CLOSURE_MAX_SIZE: "2m"}).check(request)


def test_what_a_request_may_hold_is_for_all_of_its_functions() -> None:
    table = np.ones(150_000)
    scales = RequestSizeLimit({CLOSURE_MAX_SIZE: "2m"})
    scales.check(request_with(one=lambda x: table[x]))
    with pytest.raises(
        SessionError, match=r"; the 2 functions of this query are 2\.4 MB, and a request may hold 2\.1 MB"
    ):
        scales.check(request_with(one=lambda x: table[x], two=lambda x: table[x]))


@pytest.mark.parametrize("text", ["lots", "200m", "1g", "-1", ""])
def test_a_limit_that_can_not_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"closure\.maxSize is .*: write a size up to 120m"):
        RequestSizeLimit({CLOSURE_MAX_SIZE: text})


@pytest.fixture
def narrow(server: EmbeddedServer) -> Iterator[Session]:
    """A session whose requests may hold 1 MB of functions."""
    with Session(Endpoint(host=server.host, port=server.port, session_conf={CLOSURE_MAX_SIZE: "1m"})) as session:
        yield session


def test_a_closure_of_100_mb_is_refused_before_it_is_sent(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = np.zeros(13_000_000)
    sent: list[int] = []
    observer = session._collector
    sends = observer.on_request
    monkeypatch.setattr(observer, "on_request", lambda request: sent.append(request.ByteSize()) or sends(request))

    def parse(x: int) -> Any:
        return float(lookup[x])

    @udf("double")
    def score(x: int) -> Any:
        return parse(x)

    with pytest.raises(SessionError) as caught:
        session.spark.range(3).select(score("id")).collect()
    assert str(caught.value) == (
        "function 'score' is 104.0 MB pickled, 104.0 MB of it in its variable `lookup` (in score -> parse), and a "
        "request may hold 64.0 MB of functions, as the server has them in memory several times over: write "
        "`lookup = broadcast(lookup)` in the callable, and `lookup.value` in the function (or set "
        "spark.sparkdeps.closure.maxSize in the connection's session conf)"
    )
    assert max(sent, default=0) < 100_000
    assert session.spark.range(3).count() == 3


class Rows(DataSource):
    """Made anew by each test that needs it, with something large in it."""

    @classmethod
    def name(cls) -> str:
        return "rows"

    def schema(self) -> str:
        return "x int"


def ways() -> dict[str, Callable[[Any, Any], Any]]:
    """All ways to have the cluster run a function, given a session and something large."""

    def source(spark: Any, large: Any) -> Any:
        kind = type("Rows", (Rows,), {"__module__": "__main__", "large": large})
        return spark.dataSource.register(kind)

    def table(spark: Any, large: Any) -> Any:
        class Table:
            def eval(self) -> Any:
                yield (len(large),)

        return udtf(Table, returnType="x int", useArrow=False)().collect()

    def stream(spark: Any, large: Any) -> Any:
        rate = spark.readStream.format("rate").load()
        return rate.writeStream.foreachBatch(lambda frame, number: len(large)).start()

    return {
        "udf": lambda spark, large: spark.range(1).select(udf(lambda x: str(large), "string")("id")).collect(),
        "pandas_udf": lambda spark, large: (
            spark.range(1).select(pandas_udf(lambda x: x + len(large), "long")("id")).collect()
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


@pytest.mark.parametrize("way", ways())
def test_functions_are_weighed_in_whatever_way_they_are_sent(way: str, narrow: Session) -> None:
    large = np.zeros(200_000)
    with pytest.raises(SessionError, match=r"is 1\.6 MB pickled, 1\.6 MB of it in its variable `large`"):
        ways()[way](narrow.spark, large)


def test_a_bad_limit_is_told_when_the_session_is_opened(server: EmbeddedServer) -> None:
    endpoint = Endpoint(host=server.host, port=server.port, session_conf={CLOSURE_MAX_SIZE: "lots"})
    with pytest.raises(InvalidArgumentError, match=r"closure\.maxSize is 'lots'"), Session(endpoint):
        pass
