"""Builds: readers never see half an archive, whatever happens to the builders."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError

from ..support.builders import BUNDLED, SIX, processes_below, signal_in, start_builder
from ..support.waiting import wait_until


@pytest.mark.slow
def test_an_environment_has_the_same_bytes_wherever_it_is_built(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two/and/deeper"):
        with start_builder(tmp_path / place / "store", tmp=tmp_path / place / "tmp", environment=BUNDLED) as process:
            output = process.communicate()[0]
        assert process.returncode == 0, output
        digests.add(output.rpartition("archive: ")[2].split()[0])
        assert not list((tmp_path / place / "tmp").iterdir())
    assert len(digests) == 1


def test_concurrent_builders_of_one_key_build_it_once(tmp_path: Path) -> None:
    processes = [start_builder(tmp_path / "store", tmp=tmp_path / f"tmp{number}") for number in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    archives = [output.rpartition("archive: ")[2].split() for output in outputs]
    assert len({tuple(archive[:2]) for archive in archives}) == 1
    assert sorted(archive[2] for archive in archives) == ["False", "False", "True"]
    # A builder that starts late finds the archive. The others wait for it.
    assert all(
        "pack:" in output or "has been building for" in output or "found archive" in output for output in outputs
    )


def test_two_builders_that_do_not_share_a_lease_are_harmless(tmp_path: Path) -> None:
    setup = f"""
import os, time
from pathlib import Path
from airflow_provider_sparkdeps.archives import lease, store

store.acquire_lease = lambda path, replace: lease.acquire_lease(path.with_name(f"build-{{os.getpid()}}.json"))

def on_line(line):
    if line.startswith("resolve:"):
        Path({str(tmp_path)!r}, f"resolving-{{os.getpid()}}").touch()
        while len(list(Path({str(tmp_path)!r}).glob("resolving-*"))) < 2:
            time.sleep(0.01)
"""
    processes = [start_builder(tmp_path / "store", tmp=tmp_path / f"tmp{number}", setup=setup) for number in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("pack:" in output for output in outputs) == 2
    store = ArchiveStore(tmp_path / "store")
    (archive,) = store.list_archives()
    store.fetch(archive)


@pytest.mark.slow
class TestAKilledBuild:
    """After SIGKILL at any moment, readers find no archive and the next build succeeds."""

    def build_again(self, root: Path, tmp: Path, environment: VenvEnvironment) -> None:
        store = ArchiveStore(root)
        assert store.find(environment) is None
        assert store.list_archives() == []
        status = store.status(environment)
        assert status is None or status.is_stale
        with start_builder(root, tmp=tmp, environment=environment) as process:
            output = process.communicate()[0]
        assert process.returncode == 0, output
        assert "wait:" not in output, "the dead builder's lease was waited for"
        archive = store.find(environment)
        assert archive
        store.fetch(archive)
        assert not list(tmp.iterdir()), "the dead builder's working directory is still there"
        assert store.status(environment) is None

    @pytest.mark.parametrize(
        ("phase", "environment"),
        [
            ("resolve", SIX),
            ("install", SIX),
            ("relocate", BUNDLED),
            ("verify", BUNDLED),
            ("pack", BUNDLED),
            ("publish", SIX),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_in_any_phase(self, phase: str, environment: VenvEnvironment, tmp_path: Path) -> None:
        root, tmp = tmp_path / "store", tmp_path / "tmp"
        with start_builder(root, tmp=tmp, environment=environment, setup=signal_in(phase, "SIGKILL")) as process:
            output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        assert f"\n{phase}:" in f"\n{output}"
        # uv may still be running, and would write into the directory that the next build removes.
        wait_until(lambda: not processes_below(tmp_path))
        self.build_again(root, tmp, environment)

    @pytest.mark.parametrize(
        "moment",
        [
            "filesystem.upload = lambda source, target: (target.write_bytes(source.read_bytes()[:1000]), die())",
            "pack.pack = lambda prefix, target, deadline: (target.write_bytes(bytes(1000)), die())",
            "filesystem.write = lambda path, data: die() if path.name == 'manifest.json' else write(path, data)",
        ],
        ids=["half a payload under its name", "half a partial file", "payload without manifest"],
    )
    def test_while_publishing(self, moment: str, tmp_path: Path) -> None:
        setup = (
            "import os, signal\nfrom airflow_provider_sparkdeps.archives import filesystem, pack\n"
            f"die, write = (lambda: os.kill(os.getpid(), signal.SIGKILL)), filesystem.write\n{moment}\n"
        )
        with start_builder(tmp_path / "store", tmp=tmp_path / "tmp", setup=setup) as process:
            output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        (folder,) = (tmp_path / "store").iterdir()
        leftovers = [path for path in folder.iterdir() if path.name != "build.json"]
        assert leftovers, "the builder was killed before it wrote anything"
        for path in leftovers:
            os.utime(path, (0, time.time() - 100))
        self.build_again(tmp_path / "store", tmp_path / "tmp", SIX)
        assert len(list(folder.iterdir())) == 2, "leftovers were not removed"


def test_a_payload_is_packed_into_a_local_store_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(shutil, "move", refuse)
    monkeypatch.setattr(shutil, "copyfileobj", refuse)
    monkeypatch.setenv("TMPDIR", "/dev/shm" if Path("/dev/shm").is_dir() else str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    archive = ArchiveStore(tmp_path / "store").build(SIX, timeout=300)
    assert {path.name for path in (tmp_path / "store" / SIX.key).iterdir()} == {archive.payload, "manifest.json"}


def test_an_interrupted_build_leaves_no_files_and_no_processes(tmp_path: Path) -> None:
    with start_builder(tmp_path / "store", tmp=tmp_path / "tmp", setup=signal_in("resolve", "SIGINT")) as process:
        output = process.communicate()[0]
    assert "KeyboardInterrupt" in output
    assert not processes_below(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "store" / SIX.key).iterdir())


def test_a_build_is_stopped_at_its_timeout_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BuildError, match="was stopped after its timeout"):
        ArchiveStore(tmp_path / "store").build(BUNDLED, timeout=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_reported_with_the_directory_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))  # Larger writes fail, as on a full disk.
    try:
        with pytest.raises(
            BuildError, match=rf"Could not build .* on this machine: .* The build used {tmp_path}.* set TMPDIR"
        ):
            ArchiveStore(tmp_path / "store").build(BUNDLED, timeout=300)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
