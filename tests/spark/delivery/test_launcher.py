"""The launcher script without Spark, in directories like an executor's: its hard cases."""

from __future__ import annotations

import dataclasses
import fcntl
import gzip
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments.context import PREFIX_TOKEN
from airflow_provider_sparkdeps.spark.delivery.launcher import Start, launcher_archive
from airflow_provider_sparkdeps.spark.delivery.reference import FETCH_FAILED

from ...support.executors import commands, flip_a_bit, leftovers, needs_unshare, wait_for
from ...support.manifests import ARCHIVE

# In the payload of these tests, a shell script takes the place of the interpreter.
_INTERPRETER = """#!/bin/sh
echo "$0"
printf '%s\\n' "$MARK"
for each; do echo "<$each>"; done
[ -z "$PYTHONPATH" ] || echo "PYTHONPATH=$PYTHONPATH"
"""


class Executor:
    """A directory like an executor's, with sessions that have a payload."""

    def __init__(self, directory: Path, path: str, shell: tuple[str, ...] = ()) -> None:
        self.root = directory / "it's an executor"
        self.path = path
        self.shell = shell
        self.payload = self._payload()
        sha256 = hashlib.sha256(self.payload).hexdigest()
        self.home = self.root / "sparkdeps" / sha256[:12]
        self.archive = dataclasses.replace(ARCHIVE, sha256=sha256, python="3.99.0", payload="env.payload")

    @staticmethod
    def _payload() -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in (("bin/python", _INTERPRETER.encode()), ("lib/ballast", os.urandom(1 << 20))):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        content = packed.getvalue()
        # A gzip file may have several members.
        return gzip.compress(content[:100_000]) + gzip.compress(content[100_000:])

    def session(
        self, name: str = "a session", *, uri: str | None = None, brought: bool = True, probe: bool = False
    ) -> Path:
        directory = self.root / name
        directory.mkdir(parents=True)
        if brought:
            (directory / "env.payload").write_bytes(self.payload)
        self.add_launcher(directory, launcher_archive(self.archive, uri, probe=probe))
        return directory

    @staticmethod
    def add_launcher(directory: Path, launcher: bytes, name: str = "env-1") -> None:
        (directory / "sparkdeps" / name).mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "-xzf", "-", "-C", directory / "sparkdeps" / name], input=launcher, check=True)

    def start(
        self, session: Path, *arguments: str, prefix: tuple[str, ...] = (), **environ: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, *self.shell, "sparkdeps/env-1/bin/python", *arguments],
            cwd=session,
            env={"PATH": self.path, "MARK": "unchanged", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, session: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
        process = self.start(session, *arguments, prefix=prefix)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err


@pytest.fixture(params=["all commands", "no flock, no Python", pytest.param("busybox", marks=pytest.mark.soak)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    """An executor for each set of commands that there may be."""
    if request.param == "all commands":
        return Executor(tmp_path, os.environ["PATH"])
    if request.param == "no flock, no Python":
        return Executor(tmp_path, str(commands(tmp_path / "bin", without=("flock", "python*"))))
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        (directory / name).symlink_to(busybox)
    return Executor(tmp_path, str(directory), (str(directory / "sh"),))


def test_the_interpreter_has_the_variables_of_the_environment(executor: Executor) -> None:
    variables = {
        "MARK": 'it\'s "$HOME" `id` \\ \n*',
        "DATA": f"{PREFIX_TOKEN}/share:{PREFIX_TOKEN}",
        "EMPTY": "",
    }
    executor.archive = dataclasses.replace(executor.archive, env_vars=variables)
    code, out, err = executor.run(executor.session(), "x")
    assert (code, err) == (0, "")
    assert out == f"{executor.home}/bin/python\n{variables['MARK']}\n<x>\n"


def wrap_command(executor: Executor, command: str, script: str, directory: Path) -> None:
    """Run a script instead of a command of the executor. `$real` is the command."""
    directory.mkdir(exist_ok=True)
    real = shutil.which(command, path=executor.path)
    (directory / command).write_text(f"#!/bin/sh\nreal='{real}'\n{script}\n")
    (directory / command).chmod(0o755)
    executor.path = f"{directory}:{executor.path}"


def wait_for_file(file: Path) -> str:
    """A command that waits for a file for at most a minute."""
    return f'n=0; until [ -e "{file}" ] || [ $((n += 1)) -gt 1200 ]; do sleep 0.05; done'


def test_launcher_passes_on_arguments_and_environment(executor: Executor) -> None:
    arguments = ("-m", "pyspark.worker", "", "two words", "it's", '"$HOME" `id` *')
    for name in ("cold", "warm"):
        code, out, err = executor.run(executor.session(name), *arguments)
        assert (code, err) == (0, "")
        assert out.splitlines() == [f"{executor.home}/bin/python", "unchanged", *(f"<{each}>" for each in arguments)]
    assert leftovers(executor.home) == []


def test_sparks_daemon_is_run_by_one_that_ends_when_it_is_idle(executor: Executor) -> None:
    code, out, err = executor.run(executor.session(), "-m", "pyspark.daemon", "pyspark.worker")
    assert (code, err) == (0, "")
    assert out.splitlines()[2:] == ["<sparkdeps/env-1/bin/daemon>", "<60.0>", "<pyspark.worker>"]


def test_ten_launchers_at_once_unpack_once(executor: Executor, tmp_path: Path) -> None:
    log, all_started = tmp_path / "unpacked", tmp_path / "all started"
    script = f'echo once >>"{log}"; {wait_for_file(all_started)}; exec "$real" "$@"'
    wrap_command(executor, "tar", script, tmp_path / "watch")
    started = [executor.start(executor.session(f"session {number}")) for number in range(10)]
    wait_for(log.exists)
    all_started.touch()
    for process in started:
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (0, "")
        assert out.startswith(f"{executor.home}/bin/python\n")
    assert sorted(path.name for path in executor.home.iterdir()) == ["bin", "lib"]
    assert leftovers(executor.home) == []
    if shutil.which("flock", path=executor.path) == shutil.which("flock"):
        assert log.read_text().split() == ["once"]


def test_files_that_another_launcher_removes_meanwhile_are_no_error(executor: Executor, tmp_path: Path) -> None:
    wrap_command(executor, "ls", 'echo "ls: cannot access" >&2; exec "$real" "$@"', tmp_path / "watch")
    code, _, err = executor.run(executor.session())
    assert (code, err) == (0, "")


def test_a_launcher_that_is_killed_leaves_no_partial_environment(executor: Executor, tmp_path: Path) -> None:
    session = executor.session()
    killed = tmp_path / "killed"
    wrap_command(executor, "tar", f'"$real" "$@"; {wait_for_file(killed)}', tmp_path / "slow")
    for _ in range(2):
        killed.unlink(missing_ok=True)
        process = executor.start(session)
        wait_for(lambda: any(executor.home.parent.glob(".*.part.*/env.*/bin/python")))
        os.kill(process.pid, signal.SIGKILL)
        killed.touch()
        process.communicate(timeout=240)
        assert not executor.home.exists()
        assert len(leftovers(executor.home)) == 1
    assert executor.run(session)[0] == 0
    assert leftovers(executor.home) == []


def test_a_damaged_payload_is_rejected_even_without_sha256sum(executor: Executor, tmp_path: Path) -> None:
    session = executor.session()
    flip_a_bit(session / "env.payload")
    code, _, err = executor.run(session)
    assert (code, "was damaged on its way" in err) == (1, True)
    links = tmp_path / "fewer"
    links.mkdir()
    for name in ["cat", "flock", "gzip", "mkdir", "mkfifo", "mv", "rm", "sed", "sh", "tail", "tar", "tee", "touch"]:
        if found := shutil.which(name, path=executor.path):
            (links / name).symlink_to(found)
    executor.path = str(links)
    code, _, err = executor.run(session)
    assert (code, "Could not unpack" in err) == (1, True)
    assert not executor.home.exists()
    assert leftovers(executor.home) == []


def test_a_directory_that_is_not_writable_is_reported(executor: Executor) -> None:
    session = executor.session()
    executor.home.parent.write_text("not a directory")
    code, _, err = executor.run(session)
    assert code == 1
    assert f"sparkdeps: Could not write to {executor.home.parent}. Check its disk space and its permissions." in err


@needs_unshare
def test_a_full_disk_is_reported(executor: Executor) -> None:
    session = executor.session()
    executor.home.parent.mkdir()
    mount = 'mount -t tmpfs -o size=64k none ../sparkdeps && "$@"; code=$?; ls -A ../sparkdeps; exit $code'
    code, out, err = executor.run(session, prefix=("unshare", "-m", "/bin/sh", "-c", mount, "sh"))
    assert code == 1
    assert re.search(
        r"Could not unpack env\.payload in .*(No space left|disk is full).*Check this executor's disk", err
    )
    assert sorted(out.split()) == [f".{executor.home.name}.lock", f".{executor.home.name}.used"]


def test_a_session_that_lost_its_files_is_reported(executor: Executor) -> None:
    session = executor.session()
    (session / "env.payload").unlink()
    code, _, err = executor.run(session)
    assert code == 1
    assert f"env.payload is not in {session}: the session lost its files" in err


def test_a_payload_is_fetched_by_its_path(executor: Executor, tmp_path: Path) -> None:
    stored = tmp_path / "a store's" / "env.payload"
    stored.parent.mkdir()
    stored.write_bytes(executor.payload)
    session = executor.session(uri=stored.as_uri(), brought=False)
    code, out, err = executor.run(session)
    assert (code, err) == (0, "")
    assert out.startswith(f"{executor.home}/bin/python\n")
    stored.unlink()
    assert executor.run(executor.session("later", uri=stored.as_uri(), brought=False))[0] == 0


@pytest.mark.parametrize(
    "uri", ["file:///no/where/env.payload", "http://127.0.0.1:9/env.payload?Signature=5ec7", "spark://127.0.0.1:9/x"]
)
def test_a_payload_that_could_not_be_fetched_is_reported_without_the_signature(executor: Executor, uri: str) -> None:
    session = executor.session(uri=uri, brought=False)
    code, _, err = executor.run(session)
    assert code == 1
    assert f"sparkdeps: Could not fetch env.payload over {uri.partition(':')[0]}: " in err
    assert FETCH_FAILED.search(err)
    assert "5ec7" not in err
    assert leftovers(executor.home) == []


def test_a_probe_fetches_the_payload_even_if_it_is_unpacked(executor: Executor) -> None:
    assert executor.run(executor.session())[0] == 0
    code, _, err = executor.run(executor.session("probe", uri="file:///no/where", brought=False, probe=True))
    assert (code, "Could not fetch" in err) == (1, True)


def test_an_executor_keeps_twelve_environments_and_those_in_use(executor: Executor) -> None:
    if not shutil.which("flock", path=executor.path):
        pytest.skip("without flock, nothing is removed")
    cache = executor.home.parent
    cache.mkdir(parents=True)
    old = [f"{number:012x}" for number in range(14)]
    for age, digest in enumerate(reversed(old)):
        (cache / digest).mkdir()
        used = cache / f".{digest}.used"
        used.write_text("10")
        os.utime(used, (1e9 - age, 1e9 - age))
    with (cache / f".{old[0]}.used").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert executor.run(executor.session())[0] == 0
    kept = {path.name for path in cache.iterdir() if path.is_dir()}
    # The twelve most recently used ones, and the oldest one, because it is in use.
    assert kept == {executor.home.name, old[0], *old[3:]}


def test_an_executor_keeps_environments_of_a_limited_size(executor: Executor) -> None:
    if not shutil.which("flock", path=executor.path):
        pytest.skip("without flock, nothing is removed")
    cache = executor.home.parent
    cache.mkdir(parents=True)
    for age, (digest, megabytes) in enumerate([("a" * 12, "15000"), ("b" * 12, "4000"), ("c" * 12, "2000")]):
        (cache / digest).mkdir()
        used = cache / f".{digest}.used"
        used.write_text(megabytes)
        os.utime(used, (1e9 - age, 1e9 - age))
    assert executor.run(executor.session())[0] == 0
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {executor.home.name, "a" * 12, "b" * 12}


def test_a_worker_in_the_executors_directory_has_the_files_of_its_session(executor: Executor, tmp_path: Path) -> None:
    other = executor.session("of another environment")
    (other / "sparkdeps/env-1").rename(other / "sparkdeps/env-2")
    (other / "other.zip").touch()
    for name in ("session", "stream"):
        directory = executor.session(name, brought=name == "stream")
        (directory / f"of a {name}.zip").write_text(name)
        (directory / "module.py").touch()
        (directory / "notes.txt").touch()
    executor.add_launcher(executor.root, launcher_archive(executor.archive, start=Start.EXECUTOR))
    stale = executor.home.parent / ".files.999999999"
    stale.mkdir()
    process = executor.start(executor.root, PYTHONPATH="/as before")
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    files = executor.home.parent / f".files.{process.pid}"
    path = out.splitlines()[-1].removeprefix("PYTHONPATH=").split(":")
    assert path == [f"{files}", f"{files}/of a session.zip", f"{files}/of a stream.zip", "/as before"]
    # Spark removes the directory of a session that has not been used for a while.
    shutil.rmtree(executor.root / "session")
    assert (files / "of a session.zip").read_text() == "session"
    assert (files / "module.py").exists()
    assert not stale.exists()


def test_an_executor_keeps_the_launchers_that_were_used_last(executor: Executor) -> None:
    cache = executor.home.parent
    names = [f"env-{number}" for number in range(1, 1003)]
    for age, name in enumerate(names):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (1e9 - age, 1e9 - age))
    os.utime(cache / "env-1", (1, 1))
    assert executor.run(executor.session())[0] == 0
    assert {path.name for path in cache.glob("env-*")} == {*names[:1000]}
