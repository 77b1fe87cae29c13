"""The dynamic section of ELF files is read as patchelf reads it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments.prefix.bundle_python import _patchelf
from airflow_provider_sparkdeps.utils.elf import read_dynamic


def run_patchelf(option: str, path: Path) -> str:
    return subprocess.run([_patchelf(), option, path], capture_output=True, text=True, check=True).stdout.strip()


def library() -> Path:
    import _ctypes

    return Path(_ctypes.__file__)


@pytest.mark.parametrize("path", [Path(sys.executable).resolve(), library()], ids=["program", "library"])
def test_it_has_the_values_that_patchelf_prints(path: Path, tmp_path: Path) -> None:
    found = read_dynamic(path)
    assert found
    assert found.needed
    assert list(found.needed) == run_patchelf("--print-needed", path).split()
    assert ":".join(found.search) == run_patchelf("--print-rpath", path)
    changed = tmp_path / "changed"
    shutil.copyfile(path, changed)
    subprocess.run([_patchelf(), "--set-rpath", "$ORIGIN/../lib:/opt/lib", changed], check=True)
    after = read_dynamic(changed)
    assert after
    assert after.search == ("$ORIGIN/../lib", "/opt/lib")
    assert after.needed == found.needed
    begin, size = after.strings
    assert changed.read_bytes()[begin : begin + size].count(b"\0libc.so.6\0") == 1


def test_damaged_files_and_other_formats_are_not_read(tmp_path: Path) -> None:
    whole = library().read_bytes()
    for content in (b"", b"\x7fELF", b"#!/bin/sh\n", whole[:40], whole[:100], whole[:2000], b"\x7fELF\x01" + whole[5:]):
        (tmp_path / "file").write_bytes(content)
        assert read_dynamic(tmp_path / "file") is None
