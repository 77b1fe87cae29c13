"""The store: nobody sees half an archive, whatever happens to builders, payloads and manifests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from upath import UPath

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.archives.lease import acquire_lease
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import ArchiveError, BuildError, InvalidArgumentError

# Small and quick: the interpreter is left out wherever a test isn't about it.
SIX = VenvEnvironment(["six"], bundle_python=False)
WHOLE = VenvEnvironment(["six", "markupsafe"])
NOBODYS = VenvEnvironment(["a-package-that-nobody-made-for-sparkdeps"], bundle_python=False)

BUILDER = """
import signal, sys
# Whoever is started in a shell's background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
requirements, bundle = sys.argv[2].split(","), sys.argv[3] == "bundle"
archive = ArchiveStore(sys.argv[1]).build(
    VenvEnvironment(requirements, bundle_python=bundle), timeout=60, progress=lambda line: print(line, flush=True))
print("archive:", archive.sha256, archive.created_by)
"""


def builder(root: Path, *, tmp: Path, code: str = BUILDER, environment: VenvEnvironment = SIX) -> subprocess.Popen[str]:
    tmp.mkdir(parents=True, exist_ok=True)
    bundle = "bundle" if environment.bundle_python else ""
    command = [sys.executable, "-c", code, str(root), ",".join(environment.requirements), bundle]
    return subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def working_below(directory: Path) -> list[str]:
    """The processes whose working directory is there."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if cwd.readlink().is_relative_to(directory):
                found.append(cwd.parent.name)
    return found


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArchiveStore]:
    cache = tmp_path / "cache"
    if request.param == "local":
        yield ArchiveStore(tmp_path / "store", cache_dir=cache)
    else:
        root = UPath(f"memory://{tmp_path.name}")
        yield ArchiveStore(root, cache_dir=cache)
        if root.exists():
            root.rmdir(recursive=True)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Archive]:
    root = tmp_path_factory.mktemp("store")
    return root, ArchiveStore(root).build(SIX, timeout=60)


@pytest.fixture
def copied(built: tuple[Path, Archive], tmp_path: Path) -> tuple[Path, Archive]:
    """A store of its own, with the archive of SIX in it."""
    return Path(shutil.copytree(built[0], tmp_path / "store")), built[1]


def test_what_is_built_is_found_fetched_and_listed(store: ArchiveStore) -> None:
    assert store.find(SIX) is None
    assert store.list_archives() == []
    lines: list[str] = []
    archive = store.build(SIX, timeout=60, progress=lines.append)
    assert [line.partition(":")[0] for line in lines if not line.startswith("install")] == [
        "resolve", "verify", "pack", "publish",
    ]  # fmt: skip
    assert store.find(SIX) == store.find(SIX.key) == archive
    assert store.list_archives() == [archive]
    assert store.status(SIX) is None
    payload = store.fetch(archive)
    assert payload.stat().st_size == archive.size
    with tarfile.open(payload) as tar:
        assert [name for name in tar.getnames() if name.endswith("site-packages/six.py")]
    assert (archive.key, archive.kind, archive.environment) == (SIX.key, "venv", SIX.to_dict())
    assert (archive.packages["six"], archive.interpreter) == (archive.lock[0].removeprefix("six=="), None)


def test_what_is_there_is_not_built_again(copied: tuple[Path, Archive]) -> None:
    lines: list[str] = []
    assert ArchiveStore(copied[0]).build(SIX, timeout=60, progress=lines.append) == copied[1]
    assert lines == [f"store: found archive {copied[1].short_digest}, built {copied[1].created_at}: nothing to build"]


def test_roots_may_be_written_in_any_way(
    copied: tuple[Path, Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, archive = copied
    monkeypatch.chdir(tmp_path)
    for way in (str(root), f"file://{root}", UPath(root), UPath(f"file://{root}"), "store"):
        assert ArchiveStore(way).find(SIX) == archive


@pytest.mark.parametrize("root", ["nosuch://bucket/folder", "hdfsx://x"])
def test_a_root_without_a_file_system_is_refused(root: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Could not open an archive store at"):
        ArchiveStore(root)


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ArchiveStore(tmp_path / "file")
    with pytest.raises(ArchiveError, match=f"Could not use the archive store {tmp_path}/file: "):
        store.find(SIX)
    with pytest.raises(ArchiveError, match="Could not use the archive store"):
        store.build(SIX, timeout=60)


def test_the_same_environment_built_twice_in_different_directories_has_the_same_bytes(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two/and/deeper"):
        with builder(tmp_path / place / "store", tmp=tmp_path / place / "tmp", environment=WHOLE) as process:
            output = process.communicate()[0]
        assert process.returncode == 0, output
        digests.add(output.rpartition("archive: ")[2].split()[0])
        assert not list((tmp_path / place / "tmp").iterdir())
    assert len(digests) == 1


def test_builders_of_one_key_at_once_build_it_once(tmp_path: Path) -> None:
    processes = [builder(tmp_path / "store", tmp=tmp_path / f"tmp{number}") for number in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({output.rpartition("archive: ")[2] for output in outputs}) == 1
    assert sum("pack:" in output for output in outputs) == 1
    # A late one finds the archive, the others wait for it.
    assert all(
        "pack:" in output or "has been building for" in output or "found archive" in output for output in outputs
    )


def test_two_builders_that_know_nothing_of_each_other_do_no_harm(tmp_path: Path) -> None:
    code = (
        "from airflow_provider_sparkdeps.archives import store, lease\nimport os\n"
        "store.acquire_lease = lambda path, replace=None: "
        "lease.acquire_lease(path.with_name(f'build-{os.getpid()}.json'))\n"
    ) + BUILDER
    processes = [builder(tmp_path / "store", tmp=tmp_path / f"tmp{number}", code=code) for number in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sum("pack:" in output for output in outputs) == 2
    store = ArchiveStore(tmp_path / "store")
    (archive,) = store.list_archives()
    store.fetch(archive)


class TestAKilledBuild:
    """SIGKILL at any moment leaves nothing that a reader takes for an archive; the next build succeeds."""

    def survive(self, root: Path, tmp: Path, environment: VenvEnvironment) -> None:
        store = ArchiveStore(root)
        assert store.find(environment) is None
        assert store.list_archives() == []
        status = store.status(environment)
        assert status is None or status.is_stale
        start = time.monotonic()
        with builder(root, tmp=tmp, environment=environment) as process:
            output = process.communicate()[0]
        assert process.returncode == 0, output
        assert time.monotonic() - start < 30
        archive = store.find(environment)
        assert archive
        store.fetch(archive)
        assert not list(tmp.iterdir()), "the dead builder's working directory is still there"
        assert store.status(environment) is None

    @pytest.mark.parametrize(
        ("phase", "environment"),
        [("resolve", SIX), ("install", SIX), ("relocate", WHOLE), ("verify", WHOLE), ("pack", WHOLE), ("publish", SIX)],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_in_any_phase(self, phase: str, environment: VenvEnvironment, tmp_path: Path) -> None:
        process = builder(tmp_path / "store", tmp=tmp_path / "tmp", environment=environment)
        assert process.stdout
        for line in process.stdout:
            if line.startswith(f"{phase}:"):
                if phase == "publish":  # may be over in the blink of an eye
                    process.send_signal(signal.SIGSTOP)
                time.sleep(0.02)
                break
        process.kill()
        process.communicate()
        # A tool that it had started, such as uv, goes on to its own end, and writes into what would be swept.
        deadline = time.monotonic() + 20
        while working_below(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.02)
        if ArchiveStore(tmp_path / "store").find(environment):
            pytest.skip("it was quicker than the kill")
        self.survive(tmp_path / "store", tmp_path / "tmp", environment)

    @pytest.mark.parametrize(
        "moment",
        [
            "filesystem.upload = lambda source, target: (target.write_bytes(source.read_bytes()[:1000]), die())",
            "pack.pack = lambda prefix, target, deadline: (target.write_bytes(bytes(1000)), die())",
            "filesystem.write = lambda path, data: die() if path.name == 'manifest.json' else write(path, data)",
        ],
        ids=["half a payload in place", "half a payload aside", "payload without manifest"],
    )
    def test_while_publishing(self, moment: str, tmp_path: Path) -> None:
        code = (
            "import os, signal\nfrom airflow_provider_sparkdeps.archives import filesystem, pack\n"
            f"die, write = (lambda: os.kill(os.getpid(), signal.SIGKILL)), filesystem.write\n{moment}\n"
        ) + BUILDER
        with builder(tmp_path / "store", tmp=tmp_path / "tmp", code=code) as process:
            output = process.communicate()[0]
        assert process.returncode == -signal.SIGKILL, output
        (folder,) = (tmp_path / "store").iterdir()
        left = [path for path in folder.iterdir() if path.name != "build.json"]
        assert left, "the kill came too early"
        for path in left:
            os.utime(path, (0, time.time() - 100))
        self.survive(tmp_path / "store", tmp_path / "tmp", SIX)
        assert len(list(folder.iterdir())) == 2, "leftovers were not swept"


def test_a_local_store_is_packed_into_with_no_second_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr(shutil, "move", refuse)
    monkeypatch.setattr(shutil, "copyfileobj", refuse)
    monkeypatch.setenv("TMPDIR", "/dev/shm" if Path("/dev/shm").is_dir() else str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    archive = ArchiveStore(tmp_path / "store").build(SIX, timeout=60)
    assert {path.name for path in (tmp_path / "store" / SIX.key).iterdir()} == {archive.payload, "manifest.json"}


def test_an_interrupted_build_leaves_nothing_and_no_uv_behind(tmp_path: Path) -> None:
    process = builder(tmp_path / "store", tmp=tmp_path / "tmp")
    assert process.stdout
    assert process.stdout.readline().startswith("resolve")
    process.send_signal(signal.SIGINT)
    output = process.communicate()[0]
    assert "KeyboardInterrupt" in output
    assert not list((tmp_path / "tmp").iterdir())
    assert not list((tmp_path / "store" / SIX.key).iterdir())


def test_another_hosts_dead_lease_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / SIX.key
    folder.mkdir()
    long_ago = time.time() - 100
    facts = {
        "state": "building", "host": "elsewhere", "pid": 1, "phase": "install", "progress": "", "error": "",
        "started_at": long_ago, "heartbeat": long_ago, "token": "theirs", "pid_namespace": "theirs",
    }  # fmt: skip
    (folder / "build.json").write_text(json.dumps(facts))
    store = ArchiveStore(tmp_path)
    status = store.status(SIX)
    assert status
    assert status.is_stale
    assert store.build(SIX, timeout=30).created_by.endswith(f":{os.getpid()}")


def test_who_waits_says_for_whom_and_gets_the_other_builders_error_at_once(tmp_path: Path) -> None:
    store = ArchiveStore(tmp_path)
    (tmp_path / SIX.key).mkdir()
    lease = acquire_lease(tmp_path / SIX.key / "build.json")
    assert lease

    def fail() -> None:
        with contextlib.suppress(BuildError), lease:
            time.sleep(1)
            raise BuildError("the resolver says no")

    thread = threading.Thread(target=fail)
    thread.start()
    lines: list[str] = []
    start = time.monotonic()
    with pytest.raises(BuildError, match=r":\d+ could not build venv of six.*: the resolver says no"):
        store.build(SIX, timeout=30, progress=lines.append)
    assert time.monotonic() - start < 5
    assert f":{os.getpid()} has been building for" in lines[0]
    thread.join()


def test_waiting_is_bounded_and_the_error_says_for_whom(tmp_path: Path) -> None:
    (tmp_path / SIX.key).mkdir()
    lease = acquire_lease(tmp_path / SIX.key / "build.json")
    assert lease
    with lease, pytest.raises(BuildError, match=rf"waiting for another builder \(\S+:{os.getpid()} has been building"):
        ArchiveStore(tmp_path).build(SIX, timeout=1)


def test_a_failed_build_leaves_its_error_for_others_and_nothing_else(store: ArchiveStore, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="nobody-made") as caught:
        store.build(NOBODYS, timeout=60)
    assert store.find(NOBODYS) is None
    status = store.status(NOBODYS)
    assert status
    assert (status.state, status.phase) == ("failed", "resolve")
    assert "nobody-made" in status.error
    assert status.error == str(caught.value)
    with pytest.raises(BuildError, match=r"^uv could not resolve"):  # tried again, not repeated from the file
        store.build(NOBODYS, timeout=60)


def test_a_build_that_takes_too_long_is_stopped_and_leaves_no_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BuildError, match="was stopped after its timeout"):
        ArchiveStore(tmp_path / "store").build(WHOLE, timeout=0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_is_told_with_the_place_and_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))  # files fail to grow, as on a full disk
    try:
        with pytest.raises(
            BuildError, match=rf"Could not build .* on this machine: .* The build used {tmp_path}.* set TMPDIR"
        ):
            ArchiveStore(tmp_path / "store").build(WHOLE, timeout=60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


class TestDamage:
    """What was damaged after it was built is told from what is sound, and built again by those who build."""

    def test_a_truncated_payload_is_an_error_for_readers(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        payload = root / archive.key / archive.payload
        payload.write_bytes(payload.read_bytes()[:-1])
        store = ArchiveStore(root)
        with pytest.raises(ArchiveError, match=rf"has {archive.size - 1} bytes instead of {archive.size}\. Build"):
            store.find(SIX)
        with pytest.raises(ArchiveError, match="bytes instead of"):
            store.fetch(archive)
        assert store.list_archives() == []
        assert list((root / archive.key).iterdir())

    def test_a_flipped_bit_is_found_before_anyone_uses_it(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        payload = root / archive.key / archive.payload
        content = bytearray(payload.read_bytes())
        content[len(content) // 2] ^= 1
        payload.write_bytes(content)
        store = ArchiveStore(root)
        with pytest.raises(ArchiveError, match=r"has another sha256.*refresh=True"):
            store.fetch(archive)
        assert store.fetch(store.build(SIX, timeout=60, refresh=True)) == payload

    def test_a_missing_payload_is_an_error(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / archive.payload).unlink()
        with pytest.raises(ArchiveError, match="is missing"):
            ArchiveStore(root).find(SIX)
        with pytest.raises(ArchiveError, match="is no longer in the store"):
            ArchiveStore(root).fetch(archive)

    def test_without_its_manifest_a_payload_is_nothing(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / "manifest.json").unlink()
        assert ArchiveStore(root).find(SIX) is None
        assert ArchiveStore(root).list_archives() == []

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}'])
    def test_a_manifest_that_cannot_be_read_is_an_error_that_names_the_mend(
        self, content: bytes, copied: tuple[Path, Archive]
    ) -> None:
        root, archive = copied
        (root / archive.key / "manifest.json").write_bytes(content)
        with pytest.raises(
            ArchiveError, match=r"Could not read the manifest .* Build the environment again, or remove"
        ):
            ArchiveStore(root).find(SIX)

    def test_another_archives_manifest_is_an_error(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        manifest = root / archive.key / "manifest.json"
        manifest.write_text(json.dumps(replace(archive, key="0" * 64).to_dict()))
        with pytest.raises(ArchiveError, match="belongs to archive 000000000000"):
            ArchiveStore(root).find(SIX)

    def test_a_builder_says_what_is_wrong_and_builds_again(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / archive.payload).write_bytes(b"short")
        lines: list[str] = []
        again = ArchiveStore(root).build(SIX, timeout=60, progress=lines.append)
        assert "has 5 bytes instead of" in lines[0]
        assert again.sha256 == archive.sha256
        ArchiveStore(root).fetch(again)


class TestFetchingFromAfar:
    """A store that isn't local: payloads are copied once, and checked each time."""

    @pytest.fixture
    def afar(self, built: tuple[Path, Archive], tmp_path: Path) -> Iterator[ArchiveStore]:
        root = UPath(f"memory://{tmp_path.name}")
        for path in (built[0] / SIX.key).iterdir():
            (root / SIX.key / path.name).write_bytes(path.read_bytes())
        yield ArchiveStore(root, cache_dir=tmp_path / "cache")
        root.rmdir(recursive=True)

    def test_a_payload_is_copied_once(self, afar: ArchiveStore, tmp_path: Path) -> None:
        archive = afar.find(SIX)
        assert archive
        first = afar.fetch(archive)
        seen = first.stat()
        assert afar.fetch(archive) == first
        assert first.stat().st_mtime_ns == seen.st_mtime_ns
        assert list((tmp_path / "cache").iterdir()) == [first]

    def test_a_damaged_copy_is_fetched_again(self, afar: ArchiveStore) -> None:
        archive = afar.find(SIX)
        assert archive
        copy = afar.fetch(archive)
        content = copy.read_bytes()
        copy.write_bytes(content[:-1] + b"x")
        assert afar.fetch(archive).read_bytes() == content

    def test_a_damaged_payload_leaves_no_copy(self, afar: ArchiveStore, tmp_path: Path) -> None:
        archive = afar.find(SIX)
        assert archive
        payload = UPath(f"memory://{tmp_path.name}") / archive.key / archive.payload
        payload.write_bytes(payload.read_bytes()[:-1] + b"x")
        with pytest.raises(ArchiveError, match="has another sha256"):
            afar.fetch(archive)
        assert not list((tmp_path / "cache").iterdir())
