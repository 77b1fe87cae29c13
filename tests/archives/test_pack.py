"""Packing: equal contents give equal bytes, and contents that would break elsewhere are refused."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives.pack import pack
from airflow_provider_sparkdeps.archives.tar import TarStream
from airflow_provider_sparkdeps.exceptions import ArchiveError, BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline


def deadline(seconds: float = 60) -> Deadline:
    return Deadline(seconds, "Packing for a test")


def tree(root: Path) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "lib" / "empty").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o700)
    (root / "lib" / "data").write_bytes(os.urandom(8) * 400_000)
    (root / "lib" / ("long-" * 30)).write_text("x")
    (root / "lib" / "ünïcode").write_text("y")
    (root / "lib" / "secret").write_text("z")
    (root / "lib" / "secret").chmod(0o600)
    (root / "bin" / "again").symlink_to("tool")
    (root / "lib64").symlink_to("lib")
    return root


def test_equal_contents_give_equal_bytes_wherever_and_whenever_they_were_created(tmp_path: Path) -> None:
    one = tree(tmp_path / "one")
    two = tmp_path / "elsewhere" / "two"
    for path in sorted(one.rglob("*"), reverse=True):  # In another order, with other times and hard links.
        copy = two / path.relative_to(one)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_dir():
            copy.mkdir(exist_ok=True)
        else:
            copy.hardlink_to(path)
    first = pack(one, tmp_path / "one.tar.gz", deadline=deadline())
    os.utime(one / "lib" / "data", (0, 1_000_000_000))
    second = pack(two, tmp_path / "two.tar.gz", deadline=deadline())
    assert first == second
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()


def test_the_number_of_cores_does_not_change_the_bytes(tmp_path: Path) -> None:
    prefix = tree(tmp_path / "prefix")
    cores = os.sched_getaffinity(0)
    many = pack(prefix, tmp_path / "many.tar.gz", deadline=deadline())
    try:
        os.sched_setaffinity(0, {min(cores)})
        one = pack(prefix, tmp_path / "one.tar.gz", deadline=deadline())
    finally:
        os.sched_setaffinity(0, cores)
    assert one == many


def test_size_and_sha256_are_those_of_the_file(tmp_path: Path) -> None:
    packed = pack(tree(tmp_path / "prefix"), tmp_path / "out.tar.gz", deadline=deadline())
    written = (tmp_path / "out.tar.gz").read_bytes()
    assert packed.size == len(written)
    assert packed.sha256 == hashlib.sha256(written).hexdigest()
    flags, mtime = written[3], written[4:8]
    assert (flags, mtime) == (0, bytes(4)), "a gzip header with a name or time"


def test_members_are_sorted_and_have_no_owner_time_or_unusual_modes(tmp_path: Path) -> None:
    pack(tree(tmp_path / "prefix"), tmp_path / "out.tar.gz", deadline=deadline())
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert not [name for name in names if name.startswith((".", "/"))]
    assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}
    assert len({member.mtime for member in members}) == 1
    modes = {member.name: member.mode for member in members}
    assert (modes["bin"], modes["bin/tool"], modes["lib/secret"]) == (0o755, 0o755, 0o644)


def test_tar_and_gzip_unpack_what_was_packed(tmp_path: Path) -> None:
    prefix = tree(tmp_path / "prefix")
    pack(prefix, tmp_path / "out.tar.gz", deadline=deadline())
    (tmp_path / "unpacked").mkdir()
    subprocess.run(f"gzip -dc {tmp_path}/out.tar.gz | tar -xf - -C {tmp_path}/unpacked", shell=True, check=True)
    assert not subprocess.run(["diff", "-r", "--no-dereference", prefix, tmp_path / "unpacked"], check=False).returncode
    assert os.access(tmp_path / "unpacked" / "bin" / "again", os.X_OK)


def test_long_names_and_all_sizes_are_packed_as_tarfile_does(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (prefix / ("d" * 99)).mkdir(parents=True)
    (prefix / ("d" * 100)).mkdir()
    for length in (99, 100, 101, 250):
        (prefix / ("n" * length)).write_bytes(os.urandom(length))
        (prefix / f"l{length}").symlink_to("t" * length)
    # Blocks are compressed independently, and end within files, headers and padding.
    for number, size in enumerate((0, 1, 511, 512, 513, (1 << 20) - 512, 1 << 20, (1 << 20) + 1, 3_333_333)):
        (prefix / f"size{number}").write_bytes(os.urandom(size))
    pack(prefix, tmp_path / "out.tar.gz", deadline=deadline())
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        members = {member.name: member for member in tar}
        for path in prefix.iterdir():
            member = members.pop(path.name)
            if path.is_symlink():
                assert member.linkname == str(path.readlink())
            elif path.is_file():
                content = tar.extractfile(member)
                assert content
                assert content.read() == path.read_bytes(), path.name
    assert not members
    # GNU tar is stricter about the end of the file.
    listed = subprocess.run(["tar", "-tzf", tmp_path / "out.tar.gz"], capture_output=True, text=True, check=True)
    assert (len(listed.stdout.splitlines()), listed.stderr) == (len(list(prefix.iterdir())), "")


def test_a_file_that_shrinks_while_it_is_packed_is_an_error(tmp_path: Path) -> None:
    prefix = tree(tmp_path / "prefix")
    stream = TarStream(prefix)
    (prefix / "lib" / "data").write_bytes(b"less")
    with pytest.raises(ArchiveError, match="Could not pack lib/data: it changed while it was read"):
        stream.read_into(memoryview(bytearray(stream.size)), 0)


def test_bytecode_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "prefix" / "lib" / "__pycache__").mkdir(parents=True)
    (tmp_path / "prefix" / "lib" / "__pycache__" / "x.pyc").write_text("x")
    pack(tmp_path / "prefix", tmp_path / "out.tar.gz", deadline=deadline())
    with tarfile.open(tmp_path / "out.tar.gz") as tar:
        assert tar.getnames() == ["lib"]


@pytest.mark.parametrize(
    "target", ["/usr/bin/python3", "../outside", "lib/../../outside", "../prefix/lib", "door/outside"]
)
def test_a_link_that_leaves_the_prefix_is_refused(target: str, tmp_path: Path) -> None:
    prefix = tree(tmp_path / "prefix")
    (prefix / "link").symlink_to(target)
    if target.startswith("door"):
        (prefix / "door").symlink_to(tmp_path)
    with pytest.raises(ArchiveError, match=f"link -> {target}"):
        pack(prefix, tmp_path / "out.tar.gz", deadline=deadline())


def test_a_link_inside_the_prefix_may_go_up_or_be_broken(tmp_path: Path) -> None:
    prefix = tree(tmp_path / "prefix")
    (prefix / "bin" / "up").symlink_to("../lib/data")
    (prefix / "bin" / "nothing").symlink_to("../lib/later")
    pack(prefix, tmp_path / "out.tar.gz", deadline=deadline())


def test_a_special_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prefix").mkdir()
    os.mkfifo(tmp_path / "prefix" / "pipe")
    with pytest.raises(ArchiveError, match="Could not pack pipe: it is not a file"):
        pack(tmp_path / "prefix", tmp_path / "out.tar.gz", deadline=deadline())


def test_packing_stops_at_the_deadline(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="It was packing"):
        pack(tree(tmp_path / "prefix"), tmp_path / "out.tar.gz", deadline=deadline(0))


def test_memory_does_not_grow_with_the_size_of_the_prefix(tmp_path: Path) -> None:
    import resource

    (tmp_path / "prefix").mkdir()
    with (tmp_path / "prefix" / "big").open("wb") as big:
        big.truncate(400 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pack(tmp_path / "prefix", tmp_path / "out.tar.gz", deadline=deadline())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB
    with gzip.open(tmp_path / "out.tar.gz") as unpacked:
        assert unpacked.read(1)
