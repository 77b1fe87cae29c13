"""The launcher that executors run, by itself: its hard cases, with what an executor would give it laid out by hand."""

from __future__ import annotations

import dataclasses
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.archives.manifest import Contents
from airflow_provider_sparkdeps.spark.delivery.launcher import launcher_archive

from ...support.executors import commands, flip_a_bit, needs_unshare, remains, wait_for

# Its payload is a shell script in the place of an interpreter.
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
            **nothing
            | {"sha256": sha256, "python": "3.99.0", "interpreter": "bin/python", "payload": "env.payload"}
            | {"contents": Contents(files=0, unpacked_size=0, package_sizes={}, modules=())}
        )

    @staticmethod
    def _payload() -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in (("bin/python", _INTERPRETER.encode()), ("lib/ballast", os.urandom(1 << 20))):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        content = packed.getvalue()
        # In two members, as gzip files may be.
        return gzip.compress(content[:100_000]) + gzip.compress(content[100_000:])

    def session(
        self, name: str = "a session", *, source: str | None = None, brought: bool = True, prove: bool = False
    ) -> Path:
        directory = self.root / name
        directory.mkdir(parents=True)
        if brought:
            (directory / "env.payload").write_bytes(self.payload)
        (directory / "env").mkdir()
        launcher = launcher_archive(self.archive, source, prove=prove)
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


@pytest.fixture(params=["all of this machine", "no flock, no Python", pytest.param("busybox", marks=pytest.mark.soak)])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Executor:
    """One for each set of commands that executors may have."""
    if request.param == "all of this machine":
        return Executor(tmp_path, os.environ["PATH"])
    if request.param == "no flock, no Python":
        return Executor(tmp_path, str(commands(tmp_path / "bin", without=("flock", "python*"))))
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
        wait_for(lambda: any(executor.home.parent.glob(".*.part.*/env.*/bin/python")))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert not executor.home.exists()
        assert len(remains(executor.home)) == 1
    assert executor.run(session)[0] == 0
    assert remains(executor.home) == []


def test_launcher_refuses_damage_even_where_sha256sum_is_missing(executor: Executor, tmp_path: Path) -> None:
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
    assert "env.payload can't be unpacked in" in err
    assert "is the disk full?" in err
    assert sorted(out.split()) == [f".{executor.home.name}.lock", f".{executor.home.name}.used"]


def test_launcher_says_that_the_session_lost_its_files(executor: Executor) -> None:
    session = executor.session()
    (session / "env.payload").unlink()
    code, _, err = executor.run(session)
    assert code == 1
    assert f"env.payload is not in {session}: the session lost its files" in err


def test_launcher_gets_what_spark_does_not_bring_by_its_path(executor: Executor, tmp_path: Path) -> None:
    stored = tmp_path / "a store's" / "env.payload"
    stored.parent.mkdir()
    stored.write_bytes(executor.payload)
    session = executor.session(source=stored.as_uri(), brought=False)
    code, out, err = executor.run(session)
    assert (code, err) == (0, "")
    assert out.startswith(f"{executor.home}/bin/python\n")
    stored.unlink()
    assert executor.run(executor.session("later", source=stored.as_uri(), brought=False))[0] == 0


@pytest.mark.parametrize(
    "source", ["file:///no/where/env.payload", "http://127.0.0.1:9/env.payload?Signature=5ec7", "spark://127.0.0.1:9/x"]
)
def test_launcher_says_that_it_could_not_get_the_payload(executor: Executor, source: str) -> None:
    session = executor.session(source=source, brought=False)
    code, _, err = executor.run(session)
    assert code == 1
    assert "sparkdeps: env.payload was not had " in err
    assert "5ec7" not in err
    assert remains(executor.home) == []


def test_launcher_that_is_to_prove_it_gets_the_payload_although_it_is_unpacked(executor: Executor) -> None:
    assert executor.run(executor.session())[0] == 0
    code, _, err = executor.run(executor.session("proof", source="file:///no/where", brought=False, prove=True))
    assert (code, "was not had" in err) == (1, True)


def test_launcher_keeps_a_bounded_number_of_environments_and_those_in_use(executor: Executor) -> None:
    if not shutil.which("flock", path=executor.path):
        pytest.skip("without flock, nobody can tell what is in use, and nothing is removed")
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
    # The twelve that were used last, and the one in use although it is the oldest.
    assert kept == {executor.home.name, old[0], *old[3:]}


def test_launcher_bounds_the_size_of_what_is_kept(executor: Executor) -> None:
    if not shutil.which("flock", path=executor.path):
        pytest.skip("without flock, nobody can tell what is in use, and nothing is removed")
    cache = executor.home.parent
    cache.mkdir(parents=True)
    for age, (digest, megabytes) in enumerate([("a" * 12, "15000"), ("b" * 12, "4000"), ("c" * 12, "2000")]):
        (cache / digest).mkdir()
        used = cache / f".{digest}.used"
        used.write_text(megabytes)
        os.utime(used, (1e9 - age, 1e9 - age))
    assert executor.run(executor.session())[0] == 0
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {executor.home.name, "a" * 12, "b" * 12}
