"""Copies of virtualenvs have all files, links and packages of the original, and only those."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives.pack import pack
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.build_contexts import build, make_context, run_python
from ...support.projects import digests, write

FILES = (
    "lib/libtbb.so.12", "lib/cmake/TBB/TBBConfig.cmake", "lib64/ignored-by-nobody", "include/tbb/tbb.h",
    "include/site/python3.12/greenlet/greenlet.h", "share/jupyter/build/kernel.json", "share/man/man1/dist/x.1",
    "etc/jupyter/.vscode/config.json", "etc/venv/settings", "opt/tool/__init__.py", "top-level.txt",
    "bin/tool/nested.sh", "lib/python{minor}/config.json", "lib/python{minor}/site-packages/a/build/b.egg-info/c",
)  # fmt: skip


def make_venv(path: Path) -> Path:
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, path], check=True)
    return path


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return make_venv(tmp_path / "venv")


def site_of(venv: Path) -> Path:
    (site,) = venv.glob("lib/python3.*/site-packages")
    return site


def copy_of(venv: Path, tmp_path: Path) -> Path:
    """Build a copy that is packed, too."""
    prefix = tmp_path / "prefix"
    build(VenvEnvironment.from_prefix(venv, bundle_python=False), prefix)
    pack(prefix, tmp_path / "packed.tar.gz", deadline=make_context().deadline)
    return prefix


def files_of(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("make", ["uv", "venv", "virtualenv-like"])
def test_a_copy_has_every_file_but_those_of_the_venv_itself(make: str, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    if make == "venv":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--copies", venv], check=True)
    else:
        make_venv(venv)
    if make == "virtualenv-like":
        write(site_of(venv) / "_virtualenv.py", "")
        write(site_of(venv) / "_virtualenv.pth", "import _virtualenv")
    names = {name.format(minor=site_of(venv).parent.name.removeprefix("python")) for name in FILES}
    for name in names:
        write(venv / name, name)
    write(site_of(venv) / "a" / "__pycache__" / "b.cpython-312.pyc", "")
    prefix = copy_of(venv, tmp_path)
    assert files_of(prefix) - {"lib64"} == {name.replace("lib64/", "lib/") for name in names}
    assert digests(prefix).items() <= digests(venv).items()


def test_every_file_counts_in_the_key(venv: Path) -> None:
    environment = VenvEnvironment.from_prefix(venv, bundle_python=False)
    keys = [environment.key]
    for name in FILES:
        for text in ("one", "two"):
            write(venv / name.format(minor=environment.python_minor), text)
            keys.append(environment.key)
    for target in ("libtbb.so.12", "cmake"):
        (venv / "lib" / "libtbb.so").unlink(missing_ok=True)
        (venv / "lib" / "libtbb.so").symlink_to(target)
        keys.append(environment.key)
    for name in ("script", "tool/nested"):
        for text in ("#!/bin/sh\n", "#!/usr/bin/python3\nprint(1)\n", "#!/usr/bin/python3\nprint(2)\n"):
            write(venv / "bin" / name, text)
            keys.append(environment.key)
    write(venv / "bin" / "tool" / "nested", f"#!{venv}/bin/python\nprint(2)\n")
    keys.append(environment.key)
    assert len(set(keys)) == len(keys)


def test_the_path_of_the_venv_in_its_scripts_does_not_count_in_the_key(tmp_path: Path) -> None:
    keys = set()
    for name in ("one", "other"):
        venv = make_venv(tmp_path / name)
        write(venv / "bin" / "script", f"#!{venv}/bin/python\nimport sys\n")
        record = site_of(venv) / "a-1.dist-info" / "RECORD"
        size = (venv / "bin" / "script").stat().st_size
        write(record.with_name("METADATA"), "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
        write(record, f"../../../bin/script,sha256={name},{size}\n")
        keys.add(VenvEnvironment.from_prefix(venv).key)
    assert len(keys) == 1


def test_modules_without_source_are_kept(venv: Path, tmp_path: Path) -> None:
    site = site_of(venv)
    for name in ("single", "package/__init__", "package/inner"):
        source = write(site / f"{name}.py", f"NAME = {name!r}\n")
        py_compile.compile(str(source), cfile=str(source.with_suffix(".pyc")), doraise=True)
        source.unlink()
    environment = VenvEnvironment.from_prefix(venv)
    before = environment.key
    built = build(environment, tmp_path / "prefix")
    moved = (tmp_path / "prefix").rename(tmp_path / "moved")
    verify_prefix(moved, built, deadline=make_context().deadline)
    code = "import single, package.inner; print(single.NAME, package.NAME, package.inner.NAME)"
    assert run_python(moved, code) == "single package/__init__ package/inner"
    (site / "single.pyc").unlink()
    assert environment.key != before


def test_what_interrupted_installations_leave_is_copied_but_not_a_package(venv: Path, tmp_path: Path) -> None:
    site = site_of(venv)
    metadata = "Metadata-Version: 2.1\nName: {}\nVersion: {}\n"
    write(site / "pandas-2.2.dist-info" / "METADATA", metadata.format("pandas", "2.2"))
    write(site / "~andas-2.0.dist-info" / "METADATA", metadata.format("pandas", "2.0"))
    write(site / "~andas" / "__init__.py", "")
    write(site / "interrupted-1.0.dist-info" / "RECORD", "interrupted.py,,\n")
    write(site / "empty-1.0.dist-info" / "METADATA", "")
    write(site / "old_tool-3.0.egg-info", metadata.format("old-tool", "3.0"))
    environment = VenvEnvironment.from_prefix(venv)
    built = build(environment, tmp_path / "prefix")
    assert built.packages == {"old-tool": "3.0", "pandas": "2.2"}
    assert built.lock == ("old-tool==3.0", "pandas==2.2")
    copied = site_of(tmp_path / "prefix")
    assert files_of(copied) == files_of(site) - {"_virtualenv.py", "_virtualenv.pth"}
    assert site_packages.installed(tmp_path / "prefix") == built.packages
    verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=make_context().deadline)


def test_links_that_stay_inside_are_relative_links_of_the_copy(venv: Path, tmp_path: Path) -> None:
    write(venv / "lib" / "libtbb.so.12", "x")
    (venv / "share").mkdir()
    (tmp_path / "alias").symlink_to(venv)
    links: dict[str, tuple[Path | str, str]] = {
        "lib/libtbb.so": ("libtbb.so.12", "libtbb.so.12"),
        "lib/absolute.so": (venv / "lib" / "libtbb.so.12", "libtbb.so.12"),
        "lib/alias.so": (tmp_path / "alias" / "lib" / "libtbb.so.12", "libtbb.so.12"),
        "share/parent": ("..", ".."),
        "share/itself": (".", "."),
        "share/loop": ("loop", "loop"),
        "share/by-lib64": ("../lib64/libtbb.so.12", "../lib/libtbb.so.12"),
        "bin/py": ("python", "python"),
    }
    for name, (target, _) in links.items():
        (venv / name).symlink_to(target)
    environment = VenvEnvironment.from_prefix(venv)
    assert environment.key == VenvEnvironment.from_prefix(tmp_path / "alias").key
    prefix = copy_of(venv, tmp_path)
    assert {name: (prefix / name).readlink().as_posix() for name in links} == {
        name: each for name, (_, each) in links.items()
    }


def test_links_that_leave_the_venv_become_copies(venv: Path, tmp_path: Path) -> None:
    write(tmp_path / "outside" / "folder" / "inner", "x")
    (tmp_path / "outside" / "inside").symlink_to("folder/inner")
    (tmp_path / "outside" / "again").symlink_to(tmp_path / "elsewhere")
    write(tmp_path / "elsewhere" / "file", "y")
    (venv / "share").symlink_to(tmp_path / "outside")
    prefix = copy_of(venv, tmp_path)
    assert files_of(prefix / "share") == {"folder/inner", "inside", "again/file"}
    assert (prefix / "share" / "inside").readlink().as_posix() == "folder/inner"
    assert not (prefix / "share").is_symlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("../.."), "venv/bad is a link to .*, which contains the link itself"),
        (lambda path: path.symlink_to("/"), "venv/bad is a link to /, which contains the link itself"),
        (lambda path: path.symlink_to("/nonexistent/x"), "venv/bad is a broken link to /nonexistent/x"),
        (lambda path: os.mkfifo(path), "venv/bad is neither a file nor a directory nor a link"),
    ],
)
def test_what_cannot_be_copied_is_refused_by_name(
    make: Callable[[Path], None], message: str, venv: Path, tmp_path: Path
) -> None:
    make(venv / "bad")
    environment = VenvEnvironment.from_prefix(venv)
    for needs in (lambda: environment.key, lambda: build(environment, tmp_path / "prefix")):
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            needs()
        assert str(caught.value).count(". ") == 1


def test_a_loop_outside_is_refused_by_name(venv: Path, tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "next").symlink_to(tmp_path / other)
    (venv / "share").symlink_to(tmp_path / "one")
    with pytest.raises(InvalidArgumentError, match=r"venv/share/next/next is a link to .*/one, which contains"):
        _ = VenvEnvironment.from_prefix(venv).key


def test_the_title_names_the_directory(venv: Path) -> None:
    for path in (".", "../venv", "./x/.."):
        assert VenvEnvironment.from_prefix(path, base_dir=venv).title == "venv of venv"
