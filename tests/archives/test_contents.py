"""The scan of a prefix: its contents, and the checks that it works on other machines."""

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
def copy(prefix: Path, tmp_path: Path) -> Path:
    """A copy of the prefix that a test may change."""
    return Path(shutil.copytree(prefix, tmp_path / "prefix", symlinks=True))


def test_sizes_are_counted_by_package(prefix: Path) -> None:
    contents = scan_prefix(prefix, interpreter=None)
    files = [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]
    assert contents.files == len(files)
    assert contents.unpacked_size == sum(path.stat().st_size for path in files)
    assert set(contents.package_sizes) == {"six", "markupsafe", "tabulate"}
    six = prefix.glob("lib/python3.*/site-packages/six*/*")
    expected = sum(path.stat().st_size for path in six) + next(prefix.rglob("six.py")).stat().st_size
    assert contents.package_sizes["six"] == expected


def test_modules_are_the_names_that_can_be_imported(copy: Path) -> None:
    assert scan_prefix(copy, interpreter=None).modules == ("markupsafe", "six", "tabulate")
    (packages,) = copy.glob("lib/python3.*/site-packages")
    (packages / "_native.cpython-311-x86_64-linux-gnu.so").write_bytes(b"")
    (packages / "space/inner").mkdir(parents=True)
    (packages / "elsewhere").mkdir()
    (packages / "elsewhere/hidden.py").write_text("")
    (packages / "more.pth").write_text("import sys; sys.path\n# no\nelsewhere\n/nowhere\n")
    modules = scan_prefix(copy, interpreter=None).modules
    assert modules == ("_native", "elsewhere", "hidden", "markupsafe", "six", "space", "tabulate")


def test_the_modules_of_a_prefix_without_site_packages_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "app.pex").mkdir()
    assert scan_prefix(tmp_path, interpreter=None).modules is None


def test_native_code_that_requires_a_newer_glibc_is_refused(prefix: Path) -> None:
    required = scan_prefix(prefix, interpreter=None).glibc
    assert required is not None
    assert scan_prefix(prefix, interpreter=None, glibc=required).glibc == required
    assert scan_prefix(prefix, interpreter=None, glibc="2.99").glibc == required
    with pytest.raises(ArchiveError, match=r"Executors have glibc 2\.1, .*_speedups.*\(2\.\d+\)"):
        scan_prefix(prefix, interpreter=None, glibc="2.1")


def test_a_script_that_calls_an_interpreter_of_this_machine_is_refused(copy: Path) -> None:
    (copy / "bin").mkdir(exist_ok=True)
    (copy / "bin/tool").write_text(f"#!{sys.executable}\nprint()\n")
    with pytest.raises(ArchiveError, match=r"call an interpreter by its path on this machine: bin/tool"):
        scan_prefix(copy, interpreter=None)


def test_a_missing_interpreter_is_refused(prefix: Path) -> None:
    with pytest.raises(ArchiveError, match="bin/nothing is missing or not executable"):
        scan_prefix(prefix, interpreter="bin/nothing")
