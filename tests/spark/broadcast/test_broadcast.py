"""Broadcast variables on two executors: sent once, loaded once per worker, and mapped instead of copied."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyspark
import pytest
from pyspark import cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql.functions import col, explode, pandas_udf, udf, udtf  # type: ignore[attr-defined]

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.broadcast import Broadcast, broadcast, executor
from airflow_provider_sparkdeps.spark.broadcast import variable as broadcasts
from airflow_provider_sparkdeps.spark.broadcast.executor import load
from airflow_provider_sparkdeps.spark.broadcast.value_file import ValueFile
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.rpc import RpcClient
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.spark.session.sharing import close_shared

from ...support.executors import on_executors, open_session

# The public names of PySpark's Broadcast: our counterpart, or why there is none.
OWN_FILE = "handles PySpark's temporary file; ours is written once, and only executors read it"
NAMES = {
    "value": Broadcast.value,
    "unpersist": Broadcast.unpersist,
    "destroy": Broadcast.destroy,
    "dump": OWN_FILE,
    "load": OWN_FILE,
    "load_from_path": OWN_FILE,
}


class Stamp:
    """An object that is unpickled as the current time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (lambda name: time.time_ns()), (self.name,)


@pytest.fixture(scope="module")
def held(server: EmbeddedServer) -> Iterator[Session]:
    """A session for all tests that do not change it."""
    with open_session(server) as session:
        yield session


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The files that are sent, with the ids of their sessions."""
    names: list[tuple[str, str]] = []
    real = RpcClient.upload_file

    def record(self: RpcClient, session_id: str, name: str, file: Path, **options: Any) -> None:
        names.append((session_id, name))
        real(self, session_id, name, file, **options)

    monkeypatch.setattr(RpcClient, "upload_file", record)
    return names


@pytest.fixture
def always_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small values as large ones."""
    monkeypatch.setattr(broadcasts, "CACHE_THRESHOLD", 0)


def new_array(size: int = 1000) -> np.ndarray:
    """An array that is new to all executors."""
    return np.random.default_rng().integers(0, 1 << 40, size)


def errors(session: Session, function: Callable[[], object]) -> str:
    """The messages of a function that fails on executors. If it raised, Spark would retry."""

    def message() -> str:
        try:
            return f"no error: {function()}"
        except RuntimeError as error:
            return str(error)

    return " ".join(sorted(set(on_executors(session, message))))


def sums(session: Session, variable: Broadcast[Any]) -> set[str]:
    return set(on_executors(session, lambda: int(variable.value.sum())))


def copies(server: EmbeddedServer, variable: Broadcast[Any], pattern: str = "*") -> list[Path]:
    return list((server.work_dir / "spark/work").glob(f"app-*/*/{pattern}/bc-{variable.sha256}"))


def test_the_examples_of_pysparks_documentation_give_the_same_results(held: Session) -> None:
    b = broadcast(held, [1, 2, 3, 4, 5])
    assert b.value == [1, 2, 3, 4, 5]
    zeros = held.spark.createDataFrame([(0,), (0,)], "x int")
    flat = zeros.select(explode(udf(lambda x: b.value, "array<int>")("x")))
    assert [row[0] for row in flat.collect()] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    b.unpersist()
    assert [row[0] for row in flat.collect()] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    large_broadcast = broadcast(held, range(10000))
    assert zeros.select(udf(lambda x: sum(large_broadcast.value), "long")("x")).collect()[0][0] == 49995000
    b.destroy()


def test_each_public_name_of_pysparks_broadcast_has_a_counterpart() -> None:
    assert NAMES.keys() == {name for name in vars(pyspark.Broadcast) if not name.startswith("_")}
    for name, ours in NAMES.items():
        assert hasattr(Broadcast, name) != isinstance(ours, str), name


def test_every_kind_of_function_can_read_the_value(held: Session, tmp_path: Path) -> None:
    weights = broadcast(
        held, {"w": new_array(), "frame": pd.DataFrame({"n": [1, 2]}), "table": pa.table({"n": [3, 4]})}
    )
    total = int(weights.value["w"].sum()) + 10
    ids = held.spark.range(2)

    def read() -> int:
        found = weights.value
        return int(found["w"].sum() + found["frame"]["n"].sum() + sum(found["table"]["n"].to_pylist()))

    assert ids.select(udf(lambda _: read(), "long", useArrow=False)("id")).collect()[0][0] == total
    assert ids.select(udf(lambda _: read(), "long", useArrow=True)("id")).collect()[0][0] == total

    @pandas_udf("long")  # type: ignore[untyped-decorator]
    def by_series(series: pd.Series) -> pd.Series:
        return series * 0 + read()

    assert ids.select(by_series("id")).collect()[0][0] == total
    frame = pd.DataFrame({"n": [total]})
    assert ids.mapInPandas(lambda batches: (frame * 0 + read() for _ in batches), "n long").collect()[0][0] == total
    grouped = ids.groupBy(col("id") % 2).applyInPandas(lambda group: pd.DataFrame({"n": [read()]}), "n long")
    assert [row[0] for row in grouped.collect()] == [total, total]

    class Table:
        def eval(self) -> Iterator[tuple[int]]:
            yield (read(),)

    table: Any = udtf(Table, returnType="n long")
    assert table().collect()[0][0] == total
    out = tmp_path / "seen"

    def write(_: object) -> None:
        out.write_text(str(read()))

    ids.coalesce(1).foreachPartition(write)
    assert out.read_text() == str(total)


def test_functions_are_pickled_without_the_value(held: Session) -> None:
    variable = broadcast(held, new_array(100_000))
    assert len(cloudpickle.dumps(variable)) < 25_000
    assert cloudpickle.dumps(variable) == cloudpickle.dumps(variable), "Spark's cache compares these bytes"


def test_a_worker_loads_a_value_once_until_it_is_unpersisted(held: Session) -> None:
    stamp = broadcast(held, Stamp("once"))

    def all_threads() -> object:
        found: list[object] = []
        threads = [threading.Thread(target=lambda: found.append(stamp.value)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (value,) = set(found)
        return value

    first = set(on_executors(held, all_threads))
    assert len(first) == 2
    assert set(on_executors(held, all_threads)) == first
    stamp.unpersist()
    second = set(on_executors(held, all_threads))
    assert len(second) == 2
    assert not second & first


def test_a_worker_drops_values_that_its_last_two_tasks_did_not_use(held: Session) -> None:
    stamp, other = broadcast(held, Stamp("forgotten")), broadcast(held, "other")
    first = set(on_executors(held, lambda: stamp.value))
    on_executors(held, lambda: other.value)
    assert set(on_executors(held, lambda: stamp.value)) == first
    for _ in range(2):
        on_executors(held, lambda: other.value)
    assert not set(on_executors(held, lambda: stamp.value)) & first


def test_all_workers_of_a_node_map_the_same_file(server: EmbeddedServer, held: Session) -> None:
    array = new_array()
    variable = broadcast(held, {"array": array})

    def mapped() -> str:
        found = variable.value["array"]
        (line,) = {
            line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if variable_name in line
        }
        return f"{line} {found.flags.writeable} {found.ctypes.data % 64} {int(found.sum())}"

    variable_name = f"bc-{variable.sha256}"
    seen = on_executors(held, mapped)
    with open_session(server) as another:
        variable = broadcast(another, {"array": array})
        seen += on_executors(another, mapped)
    inodes = {line.split()[0] for line in seen}
    assert {line.partition(" ")[2] for line in seen} == {f"False 0 {int(array.sum())}"}
    assert inodes <= {str(path.stat().st_ino) for path in copies(server, variable, "sparkdeps")}
    assert len({path.stat().st_ino for path in copies(server, variable, "sparkdeps")}) == 1, (
        "The node's executors share one file."
    )


def test_a_value_is_sent_once_to_a_session(held: Session, sent: list[tuple[str, str]]) -> None:
    array = new_array()
    first, second = broadcast(held, array), broadcast(held, array.copy())
    assert sent == [(held.id, f"bc-{first.sha256}")]
    assert on_executors(held, lambda: first.value is second.value) == ["True", "True"]


def test_a_second_task_of_a_shared_session_sends_nothing(server: EmbeddedServer, sent: list[tuple[str, str]]) -> None:
    array = new_array()
    with open_session(server) as opener:
        shared = opener.share()
        # Each task is a process with its own Session object.
        for _ in range(2):
            with open_session(server, shared=shared) as task:
                variable = broadcast(task, array)
                assert sums(task, variable) == {str(array.sum())}
        assert [session for session, _ in sent] == [opener.id]
        assert close_shared(opener.endpoint, shared)


def test_a_large_value_is_sent_once_for_all_sessions_of_a_server(
    server: EmbeddedServer, always_cached: None, sent: list[tuple[str, str]]
) -> None:
    array = new_array()
    for _ in range(2):
        with open_session(server) as session:
            variable = broadcast(session, array)
            assert sums(session, variable) == {str(array.sum())}
            (only,) = sent
            assert only[0] != session.id
    assert len(copies(server, variable)) == len(copies(server, variable, "sparkdeps")) == 2, "no session has a copy"


def test_a_large_value_that_the_server_dropped_is_sent_again(
    held: Session, always_cached: None, sent: list[tuple[str, str]]
) -> None:
    array = new_array()
    variable = broadcast(held, array)
    assert RpcClient(held.endpoint, sent[0][0]).release(timeout=10)
    message = errors(held, lambda: variable.value)
    assert message.startswith("The driver no longer has /artifacts/")
    assert message.endswith(". Broadcast the value again.")
    variable = broadcast(held, array)
    assert sums(held, variable) == {str(array.sum())}
    assert len(sent) == 2


def test_a_damaged_value_is_never_used(server: EmbeddedServer) -> None:
    with open_session(server) as session:
        variable = broadcast(session, new_array())
        (held_by_driver,) = server.work_dir.glob(f"tmp/artifacts-*/*/files/bc-{variable.sha256}")
        content = bytearray(held_by_driver.read_bytes())
        content[len(content) // 2] ^= 1
        held_by_driver.write_bytes(content)
        assert "was damaged on its way to this executor: its sha256 is" in errors(session, lambda: variable.value)
    assert copies(server, variable, "sparkdeps") == []


def test_a_missing_module_is_named(held: Session) -> None:
    module = type(pytest)("only_here")
    import sys

    sys.modules["only_here"] = module
    exec("class Model: pass", vars(module))
    variable = broadcast(held, module.Model())
    with pytest.raises(PySparkException, match=r"Could not load .* on this executor: No module named 'only_here'"):
        on_executors(held, lambda: variable.value)


def test_a_destroyed_variable_can_not_be_used(held: Session) -> None:
    variable = broadcast(held, [1])
    variable.destroy()
    variable.destroy()
    for use in (lambda: variable.value, variable.unpersist, lambda: on_executors(held, lambda: variable.value)):
        with pytest.raises(SessionError, match=r"was destroyed\. Broadcast the value again"):
            use()


def test_a_variable_can_not_be_used_after_its_session(server: EmbeddedServer, held: Session) -> None:
    with open_session(server) as session:
        variable = broadcast(session, [1])
    assert variable.value == [1]
    with pytest.raises(SessionError, match=r"is closed\. Broadcast the value in the session whose UDFs use"):
        on_executors(held, lambda: variable.value)
    with pytest.raises(SessionError, match="not open"):
        broadcast(session, [1])


def test_a_variable_is_read_only_on_executors(held: Session) -> None:
    variable = broadcast(held, [1])
    message = errors(held, lambda: variable.destroy()) + errors(held, lambda: variable.unpersist())
    assert message.count("Broadcast variables are read-only on executors.") == 2
    assert "no error" not in message


class Model:
    def __init__(self, **parts: Any) -> None:
        self.__dict__ = parts


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda session: threading.Lock(), r"value is a lock \(cannot pickle"),
        (lambda session: {"a": [1, Model(guard=threading.Lock())]}, r"value\['a'\]\[1\].guard is a lock"),
        (lambda session: [session.spark], r"value\[0\] is a SparkSession"),
        (lambda session: {"t": session.spark.range(1)}, r"value\['t'\] is a DataFrame"),
        (
            lambda session: session.spark.range(1),
            r"value is a DataFrame .* For a broadcast join, import `broadcast` from pyspark\.sql",
        ),
        (lambda session: lambda x: session, r"value variable 'session' is a Session"),
        (lambda session: (1, session.accumulator("in_value")), r"value\[1\] is an accumulator"),
        (lambda session: (n for n in range(3)), "value is a generator"),
    ],
)
def test_the_part_that_can_not_be_pickled_is_named(
    held: Session, make: Callable[[Session], object], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"can't be pickled: {message}"):
        broadcast(held, make(held))


@pytest.mark.parametrize(
    "value",
    [
        np.arange(12).reshape(3, 4).T,
        np.arange(12)[::2],
        np.array([]),
        pd.DataFrame({"n": [1, 2], "t": ["a", None]}),
        pa.table({"n": [1, 2], "t": ["a", None]}),
        {"several": [np.zeros(3, "int8"), np.ones(5)], "text": "x" * 100},
        b"bytes",
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_read_as_it_was_written(value: Any, tmp_path: Path) -> None:
    written = ValueFile(value, tmp_path / "file")
    file = written.write()
    assert (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size) == (written.sha256, written.size)
    found = load(file)
    assert type(found) is type(value)
    assert str(found) == str(value)


def test_writing_does_not_copy_arrays() -> None:
    array = np.zeros(2_000_000)
    value = {"array": array, "frame": pd.DataFrame({"n": array})}
    nowhere = Path("/dev/null")
    ValueFile([], nowhere).write()
    tracemalloc.start()
    try:
        file = ValueFile(value, nowhere)
        file.write()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.size > array.nbytes * 2
    assert peak < 1_000_000


def test_a_full_disk_is_not_reported_as_an_unpicklable_value() -> None:
    with pytest.raises(OSError, match="No space left"):
        ValueFile(np.zeros(10), Path("/dev/full"))


def fetch(directory: Path, content: bytes) -> Path:
    """Do what an executor does with a file that Spark has brought to a session's directory."""
    session_file = directory / "session" / "value"
    session_file.parent.mkdir(parents=True, exist_ok=True)
    session_file.unlink(missing_ok=True)
    session_file.write_bytes(content)
    home = directory / "sparkdeps" / f"bc-{hashlib.sha256(content).hexdigest()}"
    home.parent.mkdir(exist_ok=True)
    executor._fetch(home, [session_file], None)
    return home


def test_an_executor_keeps_the_most_recently_used_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_MAX_BYTES", 250)
    first, second = (fetch(tmp_path, bytes([number]) * 100) for number in range(2))
    assert executor._touch(second)
    assert executor._touch(first)
    third = fetch(tmp_path, bytes([2]) * 100)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    alone = fetch(tmp_path, b"larger than all" * 100)
    assert list(alone.parent.glob("*")) == [alone]


def test_the_partial_file_of_a_killed_worker_is_removed(tmp_path: Path) -> None:
    home = fetch(tmp_path, b"value")
    left = home.parent / f".{home.name}.part.12345"
    left.write_bytes(b"val")
    home.unlink()
    assert fetch(tmp_path, b"value").read_bytes() == b"value"
    assert list(home.parent.iterdir()) == [home]


def test_executors_with_sibling_directories_share_one_copy(tmp_path: Path) -> None:
    homes = [fetch(tmp_path / str(number), b"value") for number in range(3)]
    assert len({home.stat().st_ino for home in homes}) == 1
