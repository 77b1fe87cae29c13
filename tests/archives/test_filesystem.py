"""File operations on a local store are atomic, also for concurrent readers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import filesystem

from ..support.waiting import wait_until

CONTENTS = {bytes([letter]) * 3_000_000 for letter in b"ab"}


def by_write(target: Path, content: bytes) -> None:
    filesystem.write(target, content)


def by_upload(target: Path, content: bytes) -> None:
    source = target.parent / "source"
    source.write_bytes(content)
    filesystem.upload(source, target)


@pytest.mark.parametrize("put", [by_write, by_upload])
def test_a_reader_sees_the_old_or_the_new_content_and_never_a_mixture(
    put: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    put(target, min(CONTENTS))
    is_read = threading.Event()

    def keep_putting() -> None:
        while not is_read.is_set():
            for content in CONTENTS:
                put(target, content)

    thread = threading.Thread(target=keep_putting)
    thread.start()
    seen: list[bytes | None] = []

    def read_again() -> bool:
        seen.extend(filesystem.read(target) for _ in range(20))
        return set(seen) >= CONTENTS

    try:
        wait_until(read_again)
    finally:
        is_read.set()
        thread.join()
    assert set(seen) == CONTENTS
    assert {path.name for path in tmp_path.iterdir()} <= {"target", "source"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    filesystem.write(tmp_path / "target", b"old")
    with pytest.raises(TypeError):
        filesystem.write(tmp_path / "target", "not bytes")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert filesystem.read(tmp_path / "target") == b"old"


def test_a_file_is_created_only_once(tmp_path: Path) -> None:
    assert filesystem.create(tmp_path / "target", b"first")
    assert not filesystem.create(tmp_path / "target", b"second")
    assert filesystem.read(tmp_path / "target") == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_file_is_created_only_once_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert filesystem.create(tmp_path / "target", b"first")
    assert not filesystem.create(tmp_path / "target", b"second")
    assert filesystem.read(tmp_path / "target") == b"first"
