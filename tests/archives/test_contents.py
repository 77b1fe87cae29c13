"""What a prefix holds is told, and what would fail on another machine is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.archives.contents import scan_prefix
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import ArchiveError


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("contents")
    store = ArchiveStore(directory / "store")
    archive = store.build(VenvEnvironment(["six==1.16.0", "markupsafe", "tabulate"], bundle_python=False), timeout=300)
    (directory / "prefix").mkdir()
    subprocess.run(["tar", "-xzf", store.fetch(archive), "-C", directory / "prefix"], check=True)
    return directory / "prefix"


@pytest.fixture
def copied(prefix: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prefix, tmp_path / "prefix", symlinks=True))


def test_sizes_are_told_by_package(prefix: Path) -> None:
    contents = scan_prefix(prefix, interpreter=None)
    files = [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]
    assert contents.files == len(files)
    assert contents.unpacked_size == sum(path.stat().st_size for path in files)
    assert set(contents.package_sizes) == {"six", "markupsafe", "tabulate"}
    six = prefix.glob("lib/python3.*/site-packages/six*/*")
    expected = sum(path.stat().st_size for path in six) + next(prefix.rglob("six.py")).stat().st_size
    assert contents.package_sizes["six"] == expected


def test_the_names_to_import_its_packages_by_are_told(copied: Path) -> None:
    assert scan_prefix(copied, interpreter=None).modules == ("markupsafe", "six", "tabulate")
    (packages,) = copied.glob("lib/python3.*/site-packages")
    (packages / "_native.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    (packages / "space/inner").mkdir(parents=True)
    (packages / "elsewhere").mkdir()
    (packages / "elsewhere/hidden.py").write_text("")
    (packages / "more.pth").write_text("import sys; sys.path\n# no\nelsewhere\n/nowhere\n")
    modules = scan_prefix(copied, interpreter=None).modules
    assert modules == ("_native", "elsewhere", "hidden", "markupsafe", "six", "space", "tabulate")


def test_of_a_prefix_without_packages_to_look_at_the_modules_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "app.pex").mkdir()
    assert scan_prefix(tmp_path, interpreter=None).modules is None


def test_native_code_that_wants_a_newer_glibc_is_named(prefix: Path) -> None:
    needs = scan_prefix(prefix, interpreter=None).glibc
    assert needs is not None
    assert scan_prefix(prefix, interpreter=None, glibc=needs).glibc == needs
    assert scan_prefix(prefix, interpreter=None, glibc="2.99").glibc == needs
    with pytest.raises(ArchiveError, match=r"Executors have glibc 2\.1, .*_speedups.*\(2\.\d+\)"):
        scan_prefix(prefix, interpreter=None, glibc="2.1")


def test_a_script_bound_to_this_machine_is_named(copied: Path) -> None:
    (copied / "bin").mkdir(exist_ok=True)
    (copied / "bin/tool").write_text(f"#!{sys.executable}\nprint()\n")
    with pytest.raises(ArchiveError, match=r"call an interpreter by its path on this machine: bin/tool"):
        scan_prefix(copied, interpreter=None)


def test_a_missing_interpreter_is_named(prefix: Path) -> None:
    with pytest.raises(ArchiveError, match="bin/nothing is missing or not executable"):
        scan_prefix(prefix, interpreter="bin/nothing")
