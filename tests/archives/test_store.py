"""ArchiveStore: finding, building, waiting, fetching, listing, and damaged archives."""

from __future__ import annotations

import contextlib
import json
import os
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

from ..support.builders import SIX

UNKNOWN = VenvEnvironment(["a-package-that-does-not-exist-for-sparkdeps"], bundle_python=False)


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


def test_a_built_archive_is_found_fetched_and_listed(store: ArchiveStore) -> None:
    assert store.find(SIX) is None
    assert store.list_archives() == []
    lines: list[str] = []
    archive = store.build(SIX, timeout=300, progress=lines.append)
    assert archive.published
    phases = dict.fromkeys(line.partition(":")[0] for line in lines if not line.startswith("install"))
    assert list(phases) == ["resolve", "verify", "pack", "publish"]
    assert store.find(SIX) == store.find(SIX.key) == archive
    assert store.list_archives() == [archive]
    assert store.status(SIX) is None
    payload = store.fetch(archive)
    assert payload.stat().st_size == archive.size
    with tarfile.open(payload) as tar:
        assert [name for name in tar.getnames() if name.endswith("site-packages/six.py")]
    assert (archive.key, archive.kind, archive.environment) == (SIX.key, "venv", SIX.to_dict())
    assert (archive.packages["six"], archive.interpreter) == (archive.lock[0].removeprefix("six=="), None)


def test_an_existing_archive_is_not_built_again(copied: tuple[Path, Archive]) -> None:
    root, built = copied
    lines: list[str] = []
    archive = ArchiveStore(root).build(SIX, timeout=300, progress=lines.append)
    assert archive == built
    assert not archive.published
    assert lines == [f"store: found archive {built.short_digest}, built {built.created_at}: nothing to build"]


def test_a_root_may_be_a_path_a_url_or_a_upath(
    copied: tuple[Path, Archive], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, archive = copied
    monkeypatch.chdir(tmp_path)
    for form in (str(root), f"file://{root}", UPath(root), UPath(f"file://{root}"), "store"):
        assert ArchiveStore(form).find(SIX) == archive


@pytest.mark.parametrize("root", ["nosuch://bucket/folder", "hdfsx://x"])
def test_a_root_without_a_file_system_is_refused(root: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"Could not open an archive store at {root.partition('/')[0]}"):
        ArchiveStore(root)


def test_an_error_of_the_file_system_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = ArchiveStore(tmp_path / "file")
    with pytest.raises(ArchiveError, match=f"Could not use the archive store {tmp_path}/file: "):
        store.find(SIX)
    with pytest.raises(ArchiveError, match="Could not use the archive store"):
        store.build(SIX, timeout=300)


def test_the_stale_lease_of_another_host_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / SIX.key
    folder.mkdir()
    long_ago = time.time() - 100
    facts = {
        "state": "building", "host": "elsewhere", "pid": 1, "phase": "install", "progress": "", "error": "",
        "started_at": long_ago, "heartbeat": long_ago, "token": "another", "pid_namespace": "another",
    }  # fmt: skip
    (folder / "build.json").write_text(json.dumps(facts))
    store = ArchiveStore(tmp_path)
    status = store.status(SIX)
    assert status
    assert status.is_stale
    assert store.build(SIX, timeout=300).created_by.endswith(f":{os.getpid()}")


def test_a_waiting_builder_logs_who_is_building_and_fails_with_their_error(tmp_path: Path) -> None:
    (tmp_path / SIX.key).mkdir()
    lease = acquire_lease(tmp_path / SIX.key / "build.json")
    assert lease
    lines: list[str] = []
    is_waiting = threading.Event()

    def log_line(line: str) -> None:
        lines.append(line)
        is_waiting.set()

    def fail() -> None:
        with contextlib.suppress(BuildError), lease:
            assert is_waiting.wait(60)
            raise BuildError("no such package")

    thread = threading.Thread(target=fail)
    thread.start()
    with pytest.raises(BuildError, match=r":\d+ could not build venv of six.*: no such package"):
        ArchiveStore(tmp_path).build(SIX, timeout=300, progress=log_line)
    thread.join()
    assert lines[0].startswith(f"wait: {SIX.title}: ")
    assert f":{os.getpid()} has been building for" in lines[0]


def test_the_wait_for_another_builder_is_bounded_and_the_error_names_the_builder(tmp_path: Path) -> None:
    (tmp_path / SIX.key).mkdir()
    lease = acquire_lease(tmp_path / SIX.key / "build.json")
    assert lease
    with lease, pytest.raises(BuildError, match=rf"waiting for another builder \(\S+:{os.getpid()} has been building"):
        ArchiveStore(tmp_path).build(SIX, timeout=1)


def test_a_failed_build_leaves_its_error_for_others_and_is_tried_again(store: ArchiveStore) -> None:
    with pytest.raises(BuildError, match="does-not-exist") as caught:
        store.build(UNKNOWN, timeout=300)
    assert store.find(UNKNOWN) is None
    status = store.status(UNKNOWN)
    assert status
    assert (status.state, status.phase) == ("failed", "resolve")
    assert "does-not-exist" in status.error
    assert status.error == str(caught.value)
    with pytest.raises(BuildError, match=r"^uv could not resolve"):  # The resolver's error, not the one in the file.
        store.build(UNKNOWN, timeout=300)


class TestADamagedArchive:
    """Damage is detected by all readers, and repaired by the next build."""

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

    def test_a_flipped_bit_is_found_before_the_payload_is_used(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        payload = root / archive.key / archive.payload
        content = bytearray(payload.read_bytes())
        content[len(content) // 2] ^= 1
        payload.write_bytes(content)
        store = ArchiveStore(root)
        with pytest.raises(ArchiveError, match=r"has another sha256.*refresh=True"):
            store.fetch(archive)
        repaired = store.build(SIX, timeout=300, refresh=True)
        assert repaired.published
        assert store.fetch(repaired) == payload

    def test_a_missing_payload_is_an_error(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / archive.payload).unlink()
        with pytest.raises(ArchiveError, match="is missing"):
            ArchiveStore(root).find(SIX)
        with pytest.raises(ArchiveError, match="is no longer in the store"):
            ArchiveStore(root).fetch(archive)

    def test_a_payload_without_a_manifest_is_not_an_archive(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / "manifest.json").unlink()
        assert ArchiveStore(root).find(SIX) is None
        assert ArchiveStore(root).list_archives() == []

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": 1}'])
    def test_an_unreadable_manifest_is_an_error_that_says_what_to_do(
        self, content: bytes, copied: tuple[Path, Archive]
    ) -> None:
        root, archive = copied
        (root / archive.key / "manifest.json").write_bytes(content)
        with pytest.raises(
            ArchiveError, match=r"Could not read the manifest .* Build the environment again, or remove"
        ):
            ArchiveStore(root).find(SIX)

    def test_the_manifest_of_another_archive_is_an_error(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        manifest = root / archive.key / "manifest.json"
        manifest.write_text(json.dumps(replace(archive, key="0" * 64).to_dict()))
        with pytest.raises(ArchiveError, match="belongs to archive 000000000000"):
            ArchiveStore(root).find(SIX)

    def test_a_build_logs_the_damage_and_repairs_it(self, copied: tuple[Path, Archive]) -> None:
        root, archive = copied
        (root / archive.key / archive.payload).write_bytes(b"short")
        lines: list[str] = []
        repaired = ArchiveStore(root).build(SIX, timeout=300, progress=lines.append)
        assert "has 5 bytes instead of" in lines[0]
        assert repaired.sha256 == archive.sha256
        ArchiveStore(root).fetch(repaired)


class TestFetchingFromARemoteStore:
    """Payloads of a store that is not local are copied once and verified each time."""

    @pytest.fixture
    def remote(self, built: tuple[Path, Archive], tmp_path: Path) -> Iterator[ArchiveStore]:
        root = UPath(f"memory://{tmp_path.name}")
        for path in (built[0] / SIX.key).iterdir():
            (root / SIX.key / path.name).write_bytes(path.read_bytes())
        yield ArchiveStore(root, cache_dir=tmp_path / "cache")
        root.rmdir(recursive=True)

    def test_a_payload_is_copied_once(self, remote: ArchiveStore, built: tuple[Path, Archive], tmp_path: Path) -> None:
        first = remote.fetch(built[1])
        before = first.stat()
        assert remote.fetch(built[1]) == first
        assert first.stat().st_mtime_ns == before.st_mtime_ns
        assert list((tmp_path / "cache").iterdir()) == [first]

    def test_a_damaged_copy_is_fetched_again(self, remote: ArchiveStore, built: tuple[Path, Archive]) -> None:
        copy = remote.fetch(built[1])
        content = copy.read_bytes()
        copy.write_bytes(content[:-1] + b"x")
        assert remote.fetch(built[1]).read_bytes() == content

    def test_a_damaged_payload_leaves_no_copy(
        self, remote: ArchiveStore, built: tuple[Path, Archive], tmp_path: Path
    ) -> None:
        payload = UPath(f"memory://{tmp_path.name}") / SIX.key / built[1].payload
        payload.write_bytes(payload.read_bytes()[:-1] + b"x")
        with pytest.raises(ArchiveError, match="has another sha256"):
            remote.fetch(built[1])
        assert not list((tmp_path / "cache").iterdir())
