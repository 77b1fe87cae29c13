"""Refreshing an archive: its environment is resolved again, and a new archive is published if the lock has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.archives.refresh import diff_locks
from airflow_provider_sparkdeps.environments import Environment, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ..support.builders import SIX

Refresh: TypeAlias = Callable[..., tuple[Archive, list[str]]]


@pytest.fixture
def root(copied: tuple[Path, Archive]) -> Path:
    return copied[0]


@pytest.fixture
def refresh(root: Path) -> Refresh:
    """Builds in `root`; returns the archive and the lines of progress."""

    def build(environment: Environment = SIX, **arguments: Any) -> tuple[Archive, list[str]]:
        lines: list[str] = []
        return ArchiveStore(root).build(environment, timeout=300, progress=lines.append, **arguments), lines

    return build


def files(root: Path, environment: Environment = SIX) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in (root / environment.key).iterdir() if path.name != "checked.json"]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def change_manifest(root: Path, **changes: Any) -> None:
    manifest = root / SIX.key / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), **changes}))


def test_an_unchanged_lock_publishes_nothing_and_logs_that(root: Path, refresh: Refresh) -> None:
    before = files(root)
    archive, lines = refresh(refresh=True)
    assert not archive.published
    assert files(root) == before
    assert archive == ArchiveStore(root).find(SIX)
    assert len([line for line in lines if line.endswith("resolving again, because refresh=True")]) == 1
    assert lines[-1] == f"store: the lock of archive {archive.short_digest} has not changed: nothing is published"
    assert not [line for line in lines if line.startswith(("install:", "pack:", "publish:"))]
    assert ArchiveStore(root).status(SIX) is None


def test_a_changed_lock_publishes_a_new_archive_and_logs_the_changes(root: Path, refresh: Refresh) -> None:
    change_manifest(root, lock=["six==1.15.0"])
    archive, lines = refresh(refresh=True)
    assert archive.published
    assert archive.lock == ("six==1.16.0",)
    assert ArchiveStore(root).find(SIX) == archive
    assert "store: six==1.15.0 -> six==1.16.0" in lines
    assert [line for line in lines if line.startswith("publish:")]


def test_changes_of_a_lock_are_listed_by_package() -> None:
    assert list(diff_locks(["a==1", "b==1"], ["b==1", "c==2", "a==2"])) == ["a==1 -> a==2", "nothing -> c==2"]
    *_, last = diff_locks([f"package{number}==1" for number in range(30)], [])
    assert last == "... and 10 more"


def test_a_damaged_payload_is_replaced_even_if_the_lock_is_the_same(root: Path, refresh: Refresh) -> None:
    (payload,) = (root / SIX.key).glob("env-*")
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    archive, lines = refresh(refresh=True)
    assert [line for line in lines if "has another sha256" in line]
    assert ArchiveStore(root).fetch(archive)


def test_requirements_that_can_no_longer_be_resolved_are_an_error_and_leave_the_archive(
    root: Path, refresh: Refresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(root)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(BuildError, match="uv could not resolve the requirements"):
        refresh(refresh=True)
    after = files(root)
    assert {name: after[name] for name in before} == before
    assert ArchiveStore(root).find(SIX)


class TestMaxAge:
    def test_a_recent_archive_is_returned_without_resolving(self, root: Path, refresh: Refresh) -> None:
        before = files(root)
        for max_age in (timedelta(days=1), 86400, 86400.5):
            _, lines = refresh(max_age=max_age)
            assert len(lines) == 1
            assert lines[0].endswith("nothing to build")
        assert files(root) == before
        assert not (root / SIX.key / "checked.json").exists()

    def test_an_older_archive_is_resolved_again_once_in_that_time(self, root: Path, refresh: Refresh) -> None:
        change_manifest(root, created_at=(datetime.now(UTC) - timedelta(days=2)).isoformat())
        before = files(root)
        _, lines = refresh(max_age=timedelta(days=1))
        assert "resolving again, because it was last checked 1728" in lines[0]
        assert lines[0].endswith(" s ago, longer than max_age=86400 s")
        assert "nothing is published" in lines[-1]
        _, lines = refresh(max_age=timedelta(days=1))
        assert len(lines) == 1
        assert files(root) == before

    def test_an_unreadable_record_of_the_last_check_is_ignored(self, root: Path, refresh: Refresh) -> None:
        change_manifest(root, created_at=(datetime.now(UTC) - timedelta(days=2)).isoformat())
        for record in ("", "[]", "{}", '{"sha256": "x", "checked_at": "2999-01-01T00:00:00+00:00"}'):
            (root / SIX.key / "checked.json").write_text(record)
            _, lines = refresh(max_age=86400)
            assert "resolving again" in lines[0]

    @pytest.mark.parametrize("max_age", [-1, timedelta(seconds=-1), "1 day", True])
    def test_an_invalid_duration_is_refused(self, max_age: object, refresh: Refresh) -> None:
        with pytest.raises(InvalidArgumentError, match=r"^max_age=.* is not a duration\. Write seconds or a timedelta"):
            refresh(max_age=max_age)


def test_an_environment_whose_files_change_during_the_build_is_not_published(tmp_path: Path, root: Path) -> None:
    file = tmp_path / "requirements.txt"
    file.write_text("six")
    environment = VenvEnvironment.from_file(file, bundle_python=False)
    key = environment.key

    def change(line: str) -> None:
        if line.startswith("install:"):
            file.write_text("tabulate")

    with pytest.raises(InvalidArgumentError, match=r"its input files changed while it was built\. Build it again"):
        ArchiveStore(root).build(environment, timeout=60, progress=change)
    assert ArchiveStore(root).find(key) is None
