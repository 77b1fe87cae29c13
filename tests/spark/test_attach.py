"""Archives that become a session's interpreter, on real executors; the launcher's hard cases, by running its script."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyspark
import pytest
from pyspark.errors import PySparkException
from pyspark.sql.functions import lit, pandas_udf, udf, udtf
from pyspark.util import PythonEvalType

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.errors import SessionError, WishError
from airflow_provider_sparkdeps.spark.attach import (
    ARROW_CONFS,
    ATTACHED_CONF,
    PYTHON_CONF,
    add_py_files,
    attach,
    detach,
)
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.launcher import launcher_archive
from airflow_provider_sparkdeps.spark.session import Session

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
can_unshare = os.geteuid() == 0 and shutil.which("unshare") and not subprocess.call(["unshare", "-m", "true"])
needs_unshare = pytest.mark.skipif(not can_unshare, reason="hiding and filling directories needs mount namespaces")


@dataclasses.dataclass(frozen=True)
class Built:
    """An archive, and the file that holds its payload."""

    archive: Archive
    payload: Path

    def attach(self, session: Session) -> bool:
        return attach(session.spark, self.archive, payload=self.payload)

    def renewed(self, directory: Path) -> Built:
        """The same environment by another digest, which no executor has seen."""
        # An empty gzip member at the end changes nothing but the digest; its name makes each one different.
        tail = io.BytesIO()
        gzip.GzipFile(filename=str(directory), fileobj=tail, mode="wb").close()
        content = self.payload.read_bytes() + tail.getvalue()
        payload = directory / "renewed.payload"
        payload.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        named = {"sha256": sha256, "payload": f"env-{sha256[:12]}.payload"}
        return Built(dataclasses.replace(self.archive, size=len(content), **named), payload)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    store = ArchiveStore(tmp_path_factory.mktemp("store"))

    def build(*requirements: str, **options: Any) -> Built:
        archive = store.build(VenvEnvironment(requirements=requirements, **options), timeout=300)
        return Built(archive, store.fetch(archive))

    return build


@pytest.fixture(scope="module")
def six15(build: Callable[..., Built]) -> Built:
    """Without pyarrow."""
    return build("six==1.15.0")


@pytest.fixture(scope="module")
def six16(build: Callable[..., Built]) -> Built:
    """With pandas and pyarrow."""
    return build("six==1.16.0", "pandas<3", "pyarrow")


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """Executors of two cores without any Python: the one of the builds hidden, none on PATH, and litter in HOME."""
    is_systems = sys.base_prefix == "/usr"
    hidden = Path(f"/usr/lib/python{MINOR}" if is_systems else sys.base_prefix)
    if Path(pyspark.__file__).is_relative_to(hidden):
        pytest.skip(f"the server's own jars lie in {hidden}, which is to be hidden: run the tests in a venv")
    hide = f"mount -t tmpfs none '{hidden}'"
    if is_systems:
        hide += f" && mount --bind /dev/null {os.path.realpath(sys.executable)}"
    directory = tmp_path_factory.mktemp("bare")
    litter = directory / f".local/lib/python{MINOR}/site-packages"
    litter.mkdir(parents=True)
    (litter / "six.py").write_text("__version__ = 'of the user of the executor'")
    environ = {**os.environ, "HOME": str(directory), "PATH": str(commands(directory / "bin", without=("python*",)))}
    prefix = ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh"]
    with EmbeddedServer("local-cluster[2,2,1024]", command_prefix=prefix, environ=environ) as server:
        yield server


def commands(directory: Path, *, without: tuple[str, ...]) -> Path:
    """A directory for PATH with this machine's commands, except some."""
    directory.mkdir()
    for command in (path for place in ("/usr/bin", "/bin") for path in Path(place).iterdir()):
        if not any(command.match(pattern) for pattern in without) and not (directory / command.name).is_symlink():
            (directory / command.name).symlink_to(command)
    return directory


def open_session(server: EmbeddedServer) -> Session:
    return Session(Endpoint(host=server.host, port=server.port))


def six_on_executors(session: Session) -> dict[Path, str]:
    """The version of six that each executor sees, by the prefix of the interpreter that saw it."""

    @udf("string", useArrow=False)
    def six(_: int) -> str:
        import six

        time.sleep(0.2)
        return f"{sys.prefix} {six.__version__}"

    rows = session.spark.range(2, numPartitions=2).select(six("id")).collect()
    return {Path(prefix): version for row in rows for prefix, version in [row[0].rsplit(" ", 1)]}


def homes(server: EmbeddedServer, built: Built) -> set[Path]:
    """Where the server's executors keep an archive once it is unpacked."""
    executors = (server.work_dir / "spark/work").glob("app-*/*")
    return {executor / "sparkdeps" / built.archive.digest12 for executor in executors}


def remains(home: Path) -> list[str]:
    """What lies around in a cache because of an archive, the archive itself and its lock apart."""
    found = home.parent.glob(f"*{home.name}*")
    return [path.name for path in found if path != home and path.suffix != ".lock"]


def never() -> Path:
    raise AssertionError("the payload was asked for")


@needs_unshare
def test_executors_without_any_python_run_the_archives(bare_server: EmbeddedServer, six15: Built) -> None:
    with open_session(bare_server) as session:
        with pytest.raises(PySparkException):
            six_on_executors(session)
        assert six15.attach(session)
        assert six_on_executors(session) == dict.fromkeys(homes(bare_server, six15), "1.15.0")


@needs_unshare
def test_sessions_at_the_same_time_unpack_an_archive_once(
    bare_server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    meeting = threading.Barrier(2, timeout=60)

    def use(_: int) -> dict[Path, str]:
        with open_session(bare_server) as session:
            assert built.attach(session)
            meeting.wait()
            return six_on_executors(session)

    expected = dict.fromkeys(homes(bare_server, built), "1.15.0")
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(use, range(2))) == [expected, expected]
    assert [remains(home) for home in expected] == [[], []]


def test_a_later_session_finds_the_archive_unpacked(server: EmbeddedServer, six15: Built) -> None:
    def when_unpacked() -> list[tuple[int, int]]:
        return [(home.stat().st_ino, home.stat().st_ctime_ns) for home in sorted(homes(server, six15))]

    with open_session(server) as first:
        six15.attach(first)
        six_on_executors(first)
        before = when_unpacked()
    with open_session(server) as second:
        assert six15.attach(second)
        assert six_on_executors(second) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert when_unpacked() == before


def test_a_session_switches_between_versions_and_back_without_sending_again(
    session: Session, server: EmbeddedServer, six15: Built, six16: Built
) -> None:
    assert six15.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")
    assert six16.attach(session)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six16), "1.16.0")
    assert not attach(session.spark, six15.archive, payload=never)
    assert six_on_executors(session) == dict.fromkeys(homes(server, six15), "1.15.0")


def test_by_reference_the_cluster_reads_the_payload_and_nothing_is_sent(
    session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    named = built.payload.rename(tmp_path / built.archive.payload)
    assert attach(session.spark, built.archive, payload=never, uri=named.as_uri())
    assert six_on_executors(session) == dict.fromkeys(homes(server, built), "1.15.0")


def test_a_reference_that_the_cluster_can_not_read_is_said(session: Session, six15: Built, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"the cluster can't read .*set the connection's delivery to upload"):
        attach(session.spark, six15.archive, payload=never, uri=(tmp_path / "missing.payload").as_uri())


def test_an_archive_for_another_kind_of_machine_is_refused_before_anything_is_sent(
    session: Session, six15: Built
) -> None:
    foreign = dataclasses.replace(six15.archive, sha256="0" * 64, platform="linux-riscv64")
    with pytest.raises(SessionError, match=r"was built for linux-riscv64, and the cluster is linux-\w+: build it on"):
        attach(session.spark, foreign, payload=never)


def test_detach_goes_back_to_the_clusters_python(session: Session, six15: Built) -> None:
    six15.attach(session)
    detach(session.spark)
    assert set(six_on_executors(session)) == {Path(sys.prefix)}


def test_an_archive_without_interpreter_uses_the_one_on_the_executors_path(
    build: Callable[..., Built], tmp_path: Path
) -> None:
    built = build("six==1.15.0", bundle_python=False)
    assert built.archive.interpreter is None
    (tmp_path / f"python{MINOR}").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with EmbeddedServer(environ=environ) as server, open_session(server) as session:
        built.attach(session)
        assert six_on_executors(session) == dict.fromkeys(homes(server, built), "1.15.0")


@needs_unshare
def test_an_archive_without_interpreter_says_that_the_executors_have_none(
    bare_server: EmbeddedServer, build: Callable[..., Built]
) -> None:
    built = build("six==1.15.0", bundle_python=False)
    with open_session(bare_server) as session:
        with pytest.raises(SessionError, match=rf"no python{MINOR} runs from .* build the environment with bundle"):
            built.attach(session)
        assert session.spark.conf.get(PYTHON_CONF, None) is None
    assert not any(home.exists() or remains(home) for home in homes(bare_server, built))


def test_a_payload_damaged_on_its_way_is_refused(
    session: Session, server: EmbeddedServer, six15: Built, tmp_path: Path
) -> None:
    built = six15.renewed(tmp_path)
    flip_a_bit(built.payload)
    with pytest.raises(SessionError, match=r"was damaged on its way to this executor .* run this again"):
        built.attach(session)
    # The other executor may still be at it.
    wait_for(lambda: not any(home.exists() or remains(home) for home in homes(server, built)))


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_an_archive_of_another_python_is_refused_before_anything_is_sent(session: Session, six15: Built) -> None:
    other = dataclasses.replace(six15.archive, python="3.9.1")
    with pytest.raises(SessionError, match=rf'has Python 3\.9, this task runs Python {MINOR}.*python="{MINOR}"'):
        attach(session.spark, other, payload=never)
    assert session.spark.conf.get(ATTACHED_CONF, None) is None
    assert session.spark.conf.get(PYTHON_CONF, None) is None


def test_plain_udfs_run_without_pyarrow_and_use_it_again_where_it_is(
    session: Session, six15: Built, six16: Built
) -> None:
    spark = session.spark
    for conf in ARROW_CONFS:
        spark.conf.set(conf, "true")

    def run_plain_udf() -> tuple[int, str]:
        @udf("string")
        def six(_):  # type: ignore[no-untyped-def]
            import six

            return str(six.__version__)

        return six.evalType, spark.range(1).select(six("id")).first()[0]  # type: ignore[attr-defined,index]

    def run_plain_udtf() -> str:
        @udtf(returnType="version string")  # type: ignore[arg-type]
        class Six:
            def eval(self) -> Iterator[tuple[str]]:
                import six

                yield (six.__version__,)

        return str(Six().first()[0])

    for _ in range(2):
        six15.attach(session)
        assert run_plain_udf() == (PythonEvalType.SQL_BATCHED_UDF, "1.15.0")
    assert run_plain_udtf() == "1.15.0"
    six16.attach(session)
    assert run_plain_udf() == (PythonEvalType.SQL_ARROW_BATCHED_UDF, "1.16.0")
    assert run_plain_udtf() == "1.16.0"
    six15.attach(session)
    detach(spark)
    assert [spark.conf.get(conf) for conf in ARROW_CONFS] == ["true", "true"]


def test_a_choice_against_arrow_outlives_an_environment_without_pyarrow(
    session: Session, six15: Built, six16: Built
) -> None:
    for conf in ARROW_CONFS:
        session.spark.conf.set(conf, "false")
    six15.attach(session)
    six16.attach(session)
    assert [session.spark.conf.get(conf) for conf in ARROW_CONFS] == ["false", "false"]


@pytest.fixture
def six16_session(session: Session, six16: Built) -> Session:
    six16.attach(session)
    return session


def test_pandas_udfs_run_in_the_environment(six16_session: Session, server: EmbeddedServer, six16: Built) -> None:
    @pandas_udf("string")
    def prefix(ids: pd.Series) -> pd.Series:
        return ids.astype(str).map(lambda _: sys.prefix)

    rows = six16_session.spark.range(2, numPartitions=2).select(prefix("id")).collect()
    assert {Path(row[0]) for row in rows} <= homes(server, six16)


def test_map_in_arrow_runs_in_the_environment(six16_session: Session, server: EmbeddedServer, six16: Built) -> None:
    def prefix(batches: Iterator[Any]) -> Iterator[Any]:
        import pyarrow

        for _ in batches:
            yield pyarrow.RecordBatch.from_pydict({"prefix": [sys.prefix]})

    rows = six16_session.spark.range(2, numPartitions=2).mapInArrow(prefix, "prefix string").collect()
    assert {Path(row[0]) for row in rows} <= homes(server, six16)


def test_udtfs_run_in_the_environment_and_are_analyzed_by_the_servers_python(
    six16_session: Session, server: EmbeddedServer, six16: Built
) -> None:
    @udtf
    class Prefix:
        @staticmethod
        def analyze(_: Any) -> Any:
            from pyspark.sql.types import StructType
            from pyspark.sql.udtf import AnalyzeResult

            return AnalyzeResult(StructType().add(sys.prefix, "string"))

        def eval(self, _: int) -> Iterator[tuple[str]]:
            yield (sys.prefix,)

    table = Prefix(lit(1))
    assert table.columns == [sys.prefix]
    assert Path(table.collect()[0][0]) in homes(server, six16)


def test_python_data_sources_are_read_in_the_environment_and_planned_by_the_servers_python(
    six16_session: Session, server: EmbeddedServer, six16: Built
) -> None:
    from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition

    class Reader(DataSourceReader):
        def partitions(self) -> list[InputPartition]:
            return [InputPartition(sys.prefix)]

        def read(self, partition: InputPartition) -> Iterator[tuple[str, str]]:
            yield partition.value, sys.prefix

    class Prefixes(DataSource):
        @classmethod
        def name(cls) -> str:
            return "prefixes"

        def schema(self) -> str:
            return "planned string, read string"

        def reader(self, schema: Any) -> Reader:
            return Reader()

    spark = six16_session.spark
    spark.dataSource.register(Prefixes)
    (row,) = spark.read.format("prefixes").load().collect()
    assert row.planned == sys.prefix
    assert Path(row.read) in homes(server, six16)


def test_py_files_are_imported_on_executors_and_leave_this_process_as_it_was(session: Session, tmp_path: Path) -> None:
    package = tmp_path / "rules_of_ours"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("from rules_of_ours.deep import value")
    (package / "deep/__init__.py").write_text("value = 40")
    module = tmp_path / "helper_of_ours.py"
    module.write_text("two = 2")
    before = list(sys.path)
    add_py_files(session.spark, [package, str(module)])
    assert sys.path == before

    @udf("int", useArrow=False)
    def answer(_: int) -> int:
        import helper_of_ours
        import rules_of_ours

        return int(rules_of_ours.value + helper_of_ours.two)

    assert [row[0] for row in session.spark.range(2, numPartitions=2).select(answer("id")).collect()] == [42, 42]


def test_py_files_that_could_not_be_imported_are_refused(session: Session, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "my-module.py").touch()
    (tmp_path / "my-package").mkdir()
    for name in ("notes.txt", "my-module.py", "my-package", "missing"):
        with pytest.raises(WishError, match=rf"{name}' is neither a .py file nor a directory of a package"):
            add_py_files(session.spark, [tmp_path / name])
    twins = [tmp_path / "a" / "twin.py", tmp_path / "b" / "twin.py"]
    for twin in twins:
        twin.parent.mkdir()
        twin.touch()
    with pytest.raises(WishError, match=r"two of them hold twin\.py"):
        add_py_files(session.spark, twins)


# From here on, launcher.sh by itself: its payload is a shell script in the place of an interpreter, and what an
# executor would give it (the session's directory to start in, the payload there) is laid out by hand.

_INTERPRETER = """#!/bin/sh
echo "$0"
echo "$MARK"
for each; do echo "<$each>"; done
"""


class Executor:
    """A directory like an executor's, with a payload of ours in each session."""

    def __init__(self, directory: Path, path: str, shell: tuple[str, ...] = ()) -> None:
        self.root = directory / "it's an executor"
        self.path = path
        self.shell = shell
        self.payload = self._payload()
        sha256 = hashlib.sha256(self.payload).hexdigest()
        self.home = self.root / "sparkdeps" / sha256[:12]
        nothing: Any = {field.name: None for field in dataclasses.fields(Archive)}
        self.archive = Archive(
            **nothing | {"sha256": sha256, "python": "3.99.0", "interpreter": "bin/python", "payload": "env.payload"}
        )

    @staticmethod
    def _payload() -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in (("bin/python", _INTERPRETER.encode()), ("lib/ballast", os.urandom(1 << 20))):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()

    def session(self, name: str = "a session") -> Path:
        directory = self.root / name
        directory.mkdir(parents=True)
        (directory / "env.payload").write_bytes(self.payload)
        (directory / "env").mkdir()
        launcher = launcher_archive(self.archive)
        subprocess.run(["tar", "-xzf", "-", "-C", directory / "env"], input=launcher, check=True)
        return directory

    def start(self, session: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, *self.shell, "env/bin/python", *arguments],
            cwd=session,
            env={"PATH": self.path, "MARK": "as it was"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, session: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
        process = self.start(session, *arguments, prefix=prefix)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


@pytest.fixture(params=["all of this machine", "no flock", pytest.param("busybox", marks=pytest.mark.soak)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    """One for each set of commands that executors may have."""
    if request.param == "all of this machine":
        return Executor(tmp_path, os.environ["PATH"])
    if request.param == "no flock":
        return Executor(tmp_path, str(commands(tmp_path / "bin", without=("flock",))))
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here")
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        (directory / name).symlink_to(busybox)
    return Executor(tmp_path, str(directory), (str(directory / "sh"),))


def instead_of(executor: Executor, command: str, script: str, directory: Path) -> None:
    """Put a script in front of a command of the executor; `$real` is the command itself."""
    directory.mkdir(exist_ok=True)
    real = shutil.which(command, path=executor.path)
    (directory / command).write_text(f"#!/bin/sh\nreal='{real}'\n{script}\n")
    (directory / command).chmod(0o755)
    executor.path = f"{directory}:{executor.path}"


def test_launcher_passes_arguments_and_environment_on(executor: Executor) -> None:
    arguments = ("-m", "pyspark.daemon", "", "two words", "it's", '"$HOME" `id` *')
    for name in ("cold", "warm"):
        code, out, err = executor.run(executor.session(name), *arguments)
        assert (code, err) == (0, "")
        assert out.splitlines() == [f"{executor.home}/bin/python", "as it was", *(f"<{each}>" for each in arguments)]
    assert remains(executor.home) == []


def test_launcher_unpacks_once_for_ten_at_the_same_time(executor: Executor, tmp_path: Path) -> None:
    log = tmp_path / "unpacked"
    instead_of(executor, "tar", f'echo once >>"{log}"; sleep 0.3; exec "$real" "$@"', tmp_path / "watch")
    started = [executor.start(executor.session(f"session {number}")) for number in range(10)]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.startswith(f"{executor.home}/bin/python\n")
    assert sorted(path.name for path in executor.home.iterdir()) == ["bin", "lib"]
    assert remains(executor.home) == []
    if shutil.which("flock", path=executor.path) == shutil.which("flock"):
        assert log.read_text().split() == ["once"]


def test_launcher_killed_while_it_unpacks_leaves_nothing_that_passes_for_an_environment(
    executor: Executor, tmp_path: Path
) -> None:
    session = executor.session()
    instead_of(executor, "tar", '"$real" "$@"; sleep 1', tmp_path / "slow")
    for _ in range(2):
        process = executor.start(session)
        wait_for(lambda: any(executor.home.parent.glob(".*.part.*/bin/python")))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert not executor.home.exists()
        assert len(remains(executor.home)) == 1
    assert executor.run(session)[0] == 0
    assert remains(executor.home) == []


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def test_launcher_refuses_damage_even_where_sha256sum_is_missing(executor: Executor, tmp_path: Path) -> None:
    session = executor.session()
    flip_a_bit(session / "env.payload")
    code, _, err = executor.run(session)
    assert (code, "was damaged on its way" in err) == (1, True)
    links = tmp_path / "fewer"
    links.mkdir()
    for name in ("cat", "flock", "gzip", "mkdir", "mv", "rm", "sh", "tail", "tar", "touch"):
        if found := shutil.which(name, path=executor.path):
            (links / name).symlink_to(found)
    executor.path = str(links)
    code, _, err = executor.run(session)
    assert (code, "can't be unpacked" in err) == (1, True)
    assert not executor.home.exists()
    assert remains(executor.home) == []


def test_launcher_says_that_it_cant_write(executor: Executor) -> None:
    session = executor.session()
    executor.home.parent.write_text("in the way")
    code, _, err = executor.run(session)
    assert code == 1
    assert f"sparkdeps: can't write to {executor.home.parent}: is the disk full, or not ours?" in err


@needs_unshare
def test_launcher_says_that_the_disk_is_full(executor: Executor) -> None:
    session = executor.session()
    executor.home.parent.mkdir()
    mount = 'mount -t tmpfs -o size=64k none ../sparkdeps && "$@"; code=$?; ls -A ../sparkdeps; exit $code'
    code, out, err = executor.run(session, prefix=("unshare", "-m", "/bin/sh", "-c", mount, "sh"))
    assert code == 1
    assert "is the disk full? tar: " in err
    assert out.split() == [f".{executor.home.name}.lock"]


def test_launcher_says_that_the_session_lost_its_files(executor: Executor) -> None:
    session = executor.session()
    (session / "env.payload").unlink()
    code, _, err = executor.run(session)
    assert code == 1
    assert f"env.payload is not in {session}: the session lost its files" in err
