"""Refreshing an archive: its wish is resolved again, and only another lock makes another archive."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, Login, VenvEnvironment
from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Report
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

WISH = VenvEnvironment(["six<1.17"], bundle_python=False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    ArchiveStore(root).build(WISH, timeout=60)
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store"))


@pytest.fixture
def refresh(root: Path) -> Callable[..., tuple[Archive, list[str]]]:
    def again(wish: Environment = WISH, **choices: Any) -> tuple[Archive, list[str]]:
        lines: list[str] = []
        return ArchiveStore(root).build(wish, timeout=60, progress=lines.append, **choices), lines

    return again


Refresh = Callable[..., tuple[Archive, list[str]]]


def published(root: Path, wish: Environment = WISH) -> dict[str, tuple[int, bytes]]:
    files = [path for path in (root / wish.key).iterdir() if path.name != "checked.json"]
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def rewrite(root: Path, **changes: Any) -> None:
    manifest = root / WISH.key / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), **changes}))


def test_an_unchanged_lock_publishes_nothing_and_says_so(root: Path, refresh: Refresh) -> None:
    before = published(root)
    archive, lines = refresh(refresh=True)
    assert published(root) == before
    assert archive == ArchiveStore(root).find(WISH)
    assert len([line for line in lines if "resolving again" in line]) == 1
    assert lines[-1] == f"store: the lock of archive {archive.short_digest} has not changed: nothing is published"
    assert not [line for line in lines if line.startswith(("install:", "pack:", "publish:"))]
    assert ArchiveStore(root).status(WISH) is None


def test_a_changed_lock_publishes_a_new_archive_and_says_what_changed(root: Path, refresh: Refresh) -> None:
    rewrite(root, lock=["six==1.15.0"])
    archive, lines = refresh(refresh=True)
    assert archive.lock == ("six==1.16.0",)
    assert ArchiveStore(root).find(WISH) == archive
    assert "store: six==1.15.0 -> six==1.16.0" in lines
    assert [line for line in lines if line.startswith("publish:")]


def test_a_damaged_payload_is_mended_even_if_the_lock_is_the_same(root: Path, refresh: Refresh) -> None:
    (payload,) = (root / WISH.key).glob("env-*")
    data = bytearray(payload.read_bytes())
    data[len(data) // 2] ^= 1
    payload.write_bytes(data)
    archive, lines = refresh(refresh=True)
    assert [line for line in lines if "has another sha256" in line]
    assert ArchiveStore(root).fetch(archive)


def test_a_wish_that_cannot_be_resolved_any_more_is_an_error_and_leaves_the_archive(
    root: Path, refresh: Refresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = published(root)
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(BuildError, match="uv could not resolve the requirements"):
        refresh(refresh=True)
    after = published(root)
    assert {name: after[name] for name in before} == before
    assert ArchiveStore(root).find(WISH)


class TestMaxAge:
    def test_a_young_archive_is_used_as_it_is(self, root: Path, refresh: Refresh) -> None:
        before = published(root)
        for max_age in (timedelta(days=1), 86400, 86400.5):
            _, lines = refresh(max_age=max_age)
            assert len(lines) == 1
            assert lines[0].endswith("nothing to build")
        assert published(root) == before
        assert not (root / WISH.key / "checked.json").exists()

    def test_an_old_one_is_resolved_again_once_in_that_time(self, root: Path, refresh: Refresh) -> None:
        rewrite(root, created_at=(datetime.now(UTC) - timedelta(days=2)).isoformat())
        before = published(root)
        _, lines = refresh(max_age=timedelta(days=1))
        assert "resolving again, because it was last checked 172800 s ago, longer than max_age=86400 s" in lines[0]
        assert "nothing is published" in lines[-1]
        _, lines = refresh(max_age=timedelta(days=1))
        assert len(lines) == 1
        assert published(root) == before

    def test_a_note_that_cannot_be_read_is_as_none(self, root: Path, refresh: Refresh) -> None:
        rewrite(root, created_at=(datetime.now(UTC) - timedelta(days=2)).isoformat())
        for note in ("", "[]", "{}", '{"sha256": "x", "checked_at": "2999-01-01T00:00:00+00:00"}'):
            (root / WISH.key / "checked.json").write_text(note)
            _, lines = refresh(max_age=86400)
            assert "resolving again" in lines[0]

    @pytest.mark.parametrize("max_age", [-1, timedelta(seconds=-1), "1 day", True])
    def test_what_is_no_time_span_is_refused(self, max_age: object, refresh: Refresh) -> None:
        with pytest.raises(InvalidArgumentError, match="Write seconds or a timedelta"):
            refresh(max_age=max_age)


@dataclass(frozen=True)
class Sealed(Environment):
    """A kind of which only a build can tell the lock, as there may be; a fake, with one file for a package."""

    lock: list[str] = field(default_factory=list, compare=False)
    wish: Path | None = None
    kind: ClassVar[str] = "sealed"
    title: ClassVar[str] = "sealed"

    def inputs(self) -> dict[str, Any]:
        return {"text": self.wish.read_text() if self.wish else ""}

    def options(self) -> dict[str, Any]:
        return {}

    def build(self, prefix: Path, *, report: Report, timeout: float, logins: Mapping[str, Login]) -> BuiltPrefix:
        prefix.mkdir()
        (prefix / "file").write_text(self.lock[0])
        if len(self.lock) > 1 and self.wish:
            self.wish.write_text("changed")
        version = ".".join(map(str, sys.version_info[:3]))
        return BuiltPrefix(python=version, interpreter=None, packages={}, lock=tuple(self.lock[:1]))


@pytest.fixture
def sealed() -> Iterator[type[Sealed]]:
    yield Sealed
    Environment._kinds.pop("sealed", None)


def test_where_only_a_build_tells_the_lock_an_unchanged_one_publishes_nothing_either(
    sealed: type[Sealed], root: Path, refresh: Refresh
) -> None:
    wish = sealed(lock=["one==1"])
    refresh(wish)
    before = published(root, wish)
    _, lines = refresh(wish, refresh=True)
    assert published(root, wish) == before
    assert "nothing is published" in lines[-1]
    wish.lock[0] = "one==2"
    archive, _ = refresh(wish, refresh=True)
    assert archive.lock == ("one==2",)


def test_files_that_change_while_they_are_built_are_not_published_under_the_old_key(
    sealed: type[Sealed], tmp_path: Path, root: Path, refresh: Refresh
) -> None:
    (tmp_path / "wish").write_text("before")
    wish = sealed(lock=["one==1", "change"], wish=tmp_path / "wish")
    key = wish.key
    with pytest.raises(InvalidArgumentError, match="changed while it was built"):
        refresh(wish)
    assert ArchiveStore(root).find(key) is None
