"""Broadcast variables on a real cluster of two executors: sent once, loaded once per worker, mapped, not copied."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyspark
import pytest
from pyspark import cloudpickle
from pyspark.errors import PySparkException
from pyspark.sql.functions import col, explode, pandas_udf, udf, udtf

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.broadcast import Broadcast, broadcast
from airflow_provider_sparkdeps.spark.broadcast import executor as executor_side
from airflow_provider_sparkdeps.spark.broadcast import variable as broadcasts
from airflow_provider_sparkdeps.spark.broadcast.executor import load
from airflow_provider_sparkdeps.spark.broadcast.value_file import ValueFile
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.rpc import RpcClient
from airflow_provider_sparkdeps.spark.session import Session

# Each public name of PySpark's own: ours, or why there is none.
OWN_FILE = "PySpark's way of writing its own temporary file: ours is written once, and only executors read it"
NAMES = {
    "value": Broadcast.value,
    "unpersist": Broadcast.unpersist,
    "destroy": Broadcast.destroy,
    "dump": OWN_FILE,
    "load": OWN_FILE,
    "load_from_path": OWN_FILE,
}


class Stamp:
    """What becomes the moment at which it was unpickled."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (lambda name: time.time_ns()), (self.name,)


@pytest.fixture(scope="module")
def held(server: EmbeddedServer) -> Iterator[Session]:
    """A session for all tests that leave nothing in it."""
    with open_session(server) as session:
        yield session


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The files that are really sent, and the sessions that they are sent to."""
    names: list[tuple[str, str]] = []
    real = RpcClient.add_file

    def noting(self: RpcClient, session_id: str, name: str, file: Path, **options: Any) -> None:
        names.append((session_id, name))
        real(self, session_id, name, file, **options)

    monkeypatch.setattr(RpcClient, "add_file", noting)
    return names


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small values treated as large ones are."""
    monkeypatch.setattr(broadcasts, "CACHE_THRESHOLD", 0)


def open_session(server: EmbeddedServer, **options: Any) -> Session:
    return Session(Endpoint(host=server.host, port=server.port), **options)


def fresh(size: int = 1000) -> np.ndarray:
    """An array that no executor has seen."""
    return np.random.default_rng().integers(0, 1 << 40, size)


def on_both(session: Session, function: Any) -> list[str]:
    """What a function gives on each of the two executors."""

    @udf("string", useArrow=False)
    def asked(_: int) -> str:
        time.sleep(0.3)
        return str(function())

    return [row[0] for row in session.spark.range(2, numPartitions=2).select(asked("id")).collect()]


def faults(session: Session, function: Any) -> str:
    """What a function that fails says on the executors; raised, it would make Spark try again."""

    def said() -> str:
        try:
            return f"no fault: {function()}"
        except RuntimeError as error:
            return str(error)

    return " ".join(sorted(set(on_both(session, said))))


def sums(session: Session, variable: Broadcast[Any]) -> set[str]:
    return set(on_both(session, lambda: int(variable.value.sum())))


def copies(server: EmbeddedServer, variable: Broadcast[Any], pattern: str = "*") -> list[Path]:
    return list((server.work_dir / "spark/work").glob(f"app-*/*/{pattern}/bc-{variable.sha256}"))


def test_the_examples_of_pysparks_documentation_give_the_same(held: Session) -> None:
    b = broadcast(held, [1, 2, 3, 4, 5])
    assert b.value == [1, 2, 3, 4, 5]
    zeros = held.spark.createDataFrame([(0,), (0,)], "x int")
    flat = zeros.select(explode(udf(lambda x: b.value, "array<int>")("x")))
    assert [row[0] for row in flat.collect()] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    b.unpersist()
    assert [row[0] for row in flat.collect()] == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    large_broadcast = broadcast(held.spark, range(10000))
    assert zeros.select(udf(lambda x: sum(large_broadcast.value), "long")("x")).collect()[0][0] == 49995000
    b.destroy()


def test_each_public_name_of_pysparks_broadcast_is_accounted_for() -> None:
    assert NAMES.keys() == {name for name in vars(pyspark.Broadcast) if not name.startswith("_")}
    for name, ours in NAMES.items():
        assert hasattr(Broadcast, name) != isinstance(ours, str), name


def test_every_kind_of_function_reads_it(held: Session, tmp_path: Path) -> None:
    weights = broadcast(held, {"w": fresh(), "frame": pd.DataFrame({"n": [1, 2]}), "table": pa.table({"n": [3, 4]})})
    total = int(weights.value["w"].sum()) + 10
    ids = held.spark.range(2)

    def read() -> int:
        found = weights.value
        return int(found["w"].sum() + found["frame"]["n"].sum() + sum(found["table"]["n"].to_pylist()))

    assert ids.select(udf(lambda _: read(), "long", useArrow=False)("id")).first()[0] == total
    assert ids.select(udf(lambda _: read(), "long", useArrow=True)("id")).first()[0] == total

    @pandas_udf("long")
    def by_series(series: pd.Series) -> pd.Series:
        return series * 0 + read()

    assert ids.select(by_series("id")).first()[0] == total
    frame = pd.DataFrame({"n": [total]})
    assert ids.mapInPandas(lambda batches: (frame * 0 + read() for _ in batches), "n long").first()[0] == total
    grouped = ids.groupBy(col("id") % 2).applyInPandas(lambda group: pd.DataFrame({"n": [read()]}), "n long")
    assert [row[0] for row in grouped.collect()] == [total, total]

    @udtf(returnType="n long")
    class Table:
        def eval(self):
            yield (read(),)

    assert Table().collect()[0][0] == total
    out = tmp_path / "seen"
    ids.coalesce(1).foreachPartition(lambda rows: out.write_text(str(read())) and None)
    assert out.read_text() == str(total)


def test_a_function_carries_a_name_and_not_the_value(held: Session) -> None:
    variable = broadcast(held, fresh(100_000))
    assert len(cloudpickle.dumps(variable)) < 25_000
    assert cloudpickle.dumps(variable) == cloudpickle.dumps(variable), "Spark finds what it has cached by these bytes"


def test_a_worker_loads_it_once_until_it_is_unpersisted(held: Session) -> None:
    stamp = broadcast(held, Stamp("once"))

    def all_threads() -> int:
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(stamp.value)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (value,) = set(found)
        return value

    first = set(on_both(held, all_threads))
    assert len(first) == 2
    assert set(on_both(held, all_threads)) == first
    stamp.unpersist()
    second = set(on_both(held, all_threads))
    assert len(second) == 2
    assert not second & first


def test_a_worker_forgets_what_its_last_two_tasks_did_not_name(held: Session) -> None:
    stamp, other = broadcast(held, Stamp("forgotten")), broadcast(held, "other")
    first = set(on_both(held, lambda: stamp.value))
    on_both(held, lambda: other.value)
    assert set(on_both(held, lambda: stamp.value)) == first
    for _ in range(2):
        on_both(held, lambda: other.value)
    assert not set(on_both(held, lambda: stamp.value)) & first


def test_all_workers_of_a_node_read_one_file_where_it_is(server: EmbeddedServer, held: Session) -> None:
    array = fresh()
    variable = broadcast(held, {"array": array})

    def mapped() -> str:
        found = variable.value["array"]
        (line,) = {
            line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if variable_name in line
        }
        return f"{line} {found.flags.writeable} {found.ctypes.data % 64} {int(found.sum())}"

    variable_name = f"bc-{variable.sha256}"
    seen = on_both(held, mapped)
    with open_session(server) as another:
        variable = broadcast(another, {"array": array})
        seen += on_both(another, mapped)
    inodes = {line.split()[0] for line in seen}
    assert {line.partition(" ")[2] for line in seen} == {f"False 0 {int(array.sum())}"}
    assert inodes <= {str(path.stat().st_ino) for path in copies(server, variable, "sparkdeps")}
    assert len({path.stat().st_ino for path in copies(server, variable, "sparkdeps")}) == 1, "of the node's executors"


def test_a_value_is_sent_once_to_a_session(held: Session, sent: list[tuple[str, str]]) -> None:
    array = fresh()
    first, second = broadcast(held, array), broadcast(held, array.copy())
    assert sent == [(held.id, f"bc-{first.sha256}")]
    assert on_both(held, lambda: first.value is second.value) == ["True", "True"]


def test_a_second_task_of_a_shared_session_sends_nothing(server: EmbeddedServer, sent: list[tuple[str, str]]) -> None:
    array = fresh()
    with open_session(server) as opener:
        shared = opener.share()
        # As each task's process has it: a Session of its own, which knows nothing of the other's.
        for _ in range(2):
            with open_session(server, shared=shared) as task:
                variable = broadcast(task, array)
                assert sums(task, variable) == {str(array.sum())}
        assert [session for session, _ in sent] == [opener.id]
        opener._is_shared = False


def test_a_large_value_is_sent_once_for_all_sessions_of_a_server(
    server: EmbeddedServer, kept: None, sent: list[tuple[str, str]]
) -> None:
    array = fresh()
    for _ in range(2):
        with open_session(server) as session:
            variable = broadcast(session, array)
            assert sums(session, variable) == {str(array.sum())}
            (only,) = sent
            assert only[0] != session.id
    assert len(copies(server, variable)) == len(copies(server, variable, "sparkdeps")) == 2, "no session has its own"


def test_a_large_value_that_the_server_has_dropped_is_sent_again(
    held: Session, kept: None, sent: list[tuple[str, str]]
) -> None:
    array = fresh()
    variable = broadcast(held, array)
    assert RpcClient(held.endpoint, sent[0][0]).release(timeout=10)
    said = faults(held, lambda: variable.value)
    assert said.startswith("the driver does not have /artifacts/")
    assert said.endswith("any more: broadcast the value again")
    variable = broadcast(held, array)
    assert sums(held, variable) == {str(array.sum())}
    assert len(sent) == 2


def test_a_value_damaged_on_its_way_is_never_used(server: EmbeddedServer) -> None:
    with open_session(server) as session:
        variable = broadcast(session, fresh())
        (held_by_driver,) = server.work_dir.glob(f"tmp/artifacts-*/*/files/bc-{variable.sha256}")
        content = bytearray(held_by_driver.read_bytes())
        content[len(content) // 2] ^= 1
        held_by_driver.write_bytes(content)
        assert "was damaged on its way to this executor (its sha256 is" in faults(session, lambda: variable.value)
    assert copies(server, variable, "sparkdeps") == []


def test_what_an_environment_lacks_is_said(held: Session) -> None:
    module = type(pytest)("only_here")
    import sys

    sys.modules["only_here"] = module
    exec("class Model: pass", vars(module))
    variable = broadcast(held, module.Model())
    with pytest.raises(PySparkException, match=r"can't be loaded on this executor \(No module named 'only_here'\)"):
        on_both(held, lambda: variable.value)


def test_destroyed_it_is_of_no_more_use(held: Session) -> None:
    variable = broadcast(held, [1])
    variable.destroy()
    variable.destroy()
    for use in (lambda: variable.value, variable.unpersist, lambda: on_both(held, lambda: variable.value)):
        with pytest.raises(SessionError, match="was destroyed: broadcast the value again"):
            use()


def test_it_ends_with_its_session(server: EmbeddedServer, held: Session) -> None:
    with open_session(server) as session:
        variable = broadcast(session, [1])
    assert variable.value == [1]
    with pytest.raises(SessionError, match="is closed: broadcast the value in the session whose UDFs use it"):
        on_both(held, lambda: variable.value)
    with pytest.raises(SessionError, match="not open"):
        broadcast(session, [1])


def test_on_executors_it_is_read_only(held: Session) -> None:
    variable = broadcast(held, [1])
    said = faults(held, lambda: variable.destroy()) + faults(held, lambda: variable.unpersist())
    assert said.count("do it in the task's callable") == 2
    assert "no fault" not in said


class Model:
    def __init__(self, **parts: Any) -> None:
        self.__dict__ = parts


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda session: threading.Lock(), r"value is a _thread.lock \(cannot pickle"),
        (lambda session: {"a": [1, Model(guard=threading.Lock())]}, r"value\['a'\]\[1\].guard is a _thread.lock"),
        (lambda session: [session.spark], r"value\[0\] is a SparkSession"),
        (lambda session: {"t": session.spark.range(1)}, r"value\['t'\] is a DataFrame"),
        (lambda session: lambda x: session, r"value variable 'session' is a Session"),
        (lambda session: (1, session.accumulator("in_value")), r"value\[1\] is an accumulator"),
        (lambda session: (n for n in range(3)), "value is a generator"),
    ],
)
def test_of_what_can_not_be_sent_the_part_is_named(held: Session, make: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"can't be pickled: {words}"):
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
def test_a_value_is_read_back_as_it_was_written(value: Any, tmp_path: Path) -> None:
    written = ValueFile(value, tmp_path / "file")
    file = written.complete()
    assert (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size) == (written.sha256, written.size)
    found = load(file)
    assert type(found) is type(value)
    assert str(found) == str(value)


def test_writing_takes_no_second_copy_of_an_array() -> None:
    array = np.zeros(2_000_000)
    value = {"array": array, "frame": pd.DataFrame({"n": array})}
    nowhere = Path("/dev/null")
    ValueFile([], nowhere).complete()
    tracemalloc.start()
    try:
        file = ValueFile(value, nowhere)
        file.complete()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.size > array.nbytes * 2
    assert peak < 1_000_000


def test_a_full_disk_is_no_fault_of_the_value() -> None:
    with pytest.raises(OSError, match="No space left"):
        ValueFile(np.zeros(10), Path("/dev/full"))


def bring(executor: Path, content: bytes) -> Path:
    """Do on this machine what an executor does with a file that Spark has brought it."""
    brought = executor / "session" / "brought"
    brought.parent.mkdir(parents=True, exist_ok=True)
    brought.unlink(missing_ok=True)
    brought.write_bytes(content)
    home = executor / "sparkdeps" / f"bc-{hashlib.sha256(content).hexdigest()}"
    home.parent.mkdir(exist_ok=True)
    executor_side._bring(home, brought, None)
    return home


def test_an_executor_keeps_the_values_that_were_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_side, "_MOST_BYTES", 250)
    first, second = (bring(tmp_path, bytes([number]) * 100) for number in range(2))
    assert executor_side._touch(second)
    assert executor_side._touch(first)
    third = bring(tmp_path, bytes([2]) * 100)
    assert [path.exists() for path in (first, second, third)] == [True, False, True]
    alone = bring(tmp_path, b"larger than all" * 100)
    assert list(alone.parent.glob("*")) == [alone]


def test_what_a_killed_worker_left_is_removed(tmp_path: Path) -> None:
    home = bring(tmp_path, b"value")
    left = home.parent / f".{home.name}.part.12345"
    left.write_bytes(b"val")
    home.unlink()
    assert bring(tmp_path, b"value").read_bytes() == b"value"
    assert list(home.parent.iterdir()) == [home]


def test_executors_side_by_side_keep_one_copy(tmp_path: Path) -> None:
    homes = [bring(tmp_path / str(number), b"value") for number in range(3)]
    assert len({home.stat().st_ino for home in homes}) == 1
