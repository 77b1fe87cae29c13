"""A local conda channel with this machine's CPython, because tests can't rely on a public one.

`make_channel(directory)` takes a few seconds and returns the URL of the channel; keep it in a fixture of a wide scope.
To add packages, call `write_package`, then `index`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter
from airflow_provider_sparkdeps.environments.pythons import find_python
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.utils.deadline import Deadline

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SUBDIR = "linux-64"
# Packages of conda are built at a path of 255 characters, so that any shorter path can replace it.
PLACEHOLDER = ("/opt/built_here" + "_placehold" * 30)[:255]
_EPOCH_MS = 1_700_000_000_000


@dataclass
class Package:
    """A conda package.

    :param files: content by path; a `Path` value is a file or link to copy.
    :param prefixed: paths of files that contain `PLACEHOLDER`, with "text" or "binary".
    :param entry_points: scripts of a noarch package, as `name = module:function`.
    """

    name: str
    version: str
    files: Mapping[str, bytes | Path]
    depends: tuple[str, ...] = ()
    noarch: bool = False
    prefixed: Mapping[str, str] = field(default_factory=dict)
    executables: tuple[str, ...] = ()
    entry_points: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.build}.conda"

    @property
    def build(self) -> str:
        return "py_0" if self.noarch else "h0_0"

    @property
    def subdir(self) -> str:
        return "noarch" if self.noarch else SUBDIR


def write_package(channel: Path, package: Package) -> Path:
    """Write a `.conda` file into the channel."""
    paths, members = [], []
    for name, content in sorted(package.files.items()):
        member = tarfile.TarInfo(name)
        member.mtime = _EPOCH_MS // 1000
        member.mode = 0o755 if name in package.executables else 0o644
        data = b""
        if isinstance(content, Path) and content.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, str(content.readlink())
        else:
            if isinstance(content, Path):
                member.mode = content.stat().st_mode & 0o777
            data = content.read_bytes() if isinstance(content, Path) else content
            member.size = len(data)
        members.append((member, data))
        entry: dict[str, object] = {"_path": name, "path_type": "softlink" if member.issym() else "hardlink"}
        entry |= {"sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
        if name in package.prefixed:
            entry |= {"prefix_placeholder": PLACEHOLDER, "file_mode": package.prefixed[name]}
        paths.append(entry)
    index = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": 0,
        "depends": list(package.depends),
        "constrains": [],
        "subdir": package.subdir,
        "timestamp": _EPOCH_MS,
        "license": "BSD-3-Clause",
    } | ({"noarch": "python"} if package.noarch else {"arch": "x86_64", "platform": "linux"})
    info = {
        "info/index.json": index,
        "info/paths.json": {"paths": paths, "paths_version": 1},
        "info/about.json": {"summary": "made for a test"},
    }
    if package.noarch:
        noarch = {"type": "python", "entry_points": list(package.entry_points)}
        info["info/link.json"] = {"noarch": noarch, "package_metadata_version": 1}
    described = [(tarfile.TarInfo(name), json.dumps(content).encode()) for name, content in info.items()]
    for member, data in described:
        member.size = len(data)
    target = channel / package.subdir / package.file_name
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = package.file_name.removesuffix(".conda")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
        archive.writestr(f"pkg-{stem}.tar.zst", _tar_zst(members))
        archive.writestr(f"info-{stem}.tar.zst", _tar_zst(described))
    return target


def _tar_zst(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for member, data in members:
            tar.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return zstandard.ZstdCompressor(level=1).compress(packed.getvalue())


def index(channel: Path) -> str:
    """Write `repodata.json` for all packages; return the URL of the channel."""
    from rattler.index import index_fs

    for subdir in (SUBDIR, "noarch"):
        (channel / subdir).mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel, write_zst=False, write_shards=False))
    return channel.as_uri()


def make_channel(channel: Path) -> str:
    """Create a channel with Python and a few test packages; return its URL.

    - `python`: this process's version, with a `_sysconfigdata` and a binary file that contain the prefix.
    - `cheese` 1.0 and 2.0: noarch, with the metadata of a distribution and the entry point `cheese`.
    - `cracker`: needs cheese below 2.
    - `cellar`: a script, a text file and a binary file that contain the prefix; no distribution.
    - `globe`: a script and a JSON file with environment variables for its activation.
    """
    with tempfile.TemporaryDirectory() as directory:
        write_package(channel, _python(Path(directory) / "prefix"))
    for version in ("1.0", "2.0"):
        write_package(channel, pure("cheese", version))
    write_package(channel, pure("cracker", "1.0", depends=("cheese <2",)))
    write_package(channel, _cellar())
    write_package(channel, _globe())
    return index(channel)


def pure(name: str, version: str, *, depends: tuple[str, ...] = ()) -> Package:
    """Return a noarch package with a module of its name, the metadata of a distribution and a script."""
    info = f"site-packages/{name}-{version}.dist-info"
    code = f'__version__ = "{version}"\n\n\ndef main():\n    import sys\n    print("{name}", __version__, sys.prefix)\n'
    files: dict[str, bytes | Path] = {
        f"site-packages/{name}/__init__.py": code.encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/INSTALLER": b"conda\n",
        f"{info}/RECORD": f"{name}/__init__.py,,\n".encode(),
    }
    depends = ("python >=3.8", *depends)
    return Package(name, version, files, depends, noarch=True, entry_points=(f"{name} = {name}:main",))


def _cellar() -> Package:
    files: dict[str, bytes | Path] = {
        "bin/cellar": f"#!{PLACEHOLDER}/bin/python\nimport sys\nprint('cellar of', sys.prefix)\n".encode(),
        "share/cellar/where.txt": f"data={PLACEHOLDER}/share/cellar\nlog={PLACEHOLDER}/var\n".encode(),
        # As in compiled files: C strings between other bytes.
        "lib/cellar.bin": b"\x7fELF\xff" + f"{PLACEHOLDER}/share/cellar".encode() + b"\0\xfe\xffafter",
    }
    prefixed = {"bin/cellar": "text", "share/cellar/where.txt": "text", "lib/cellar.bin": "binary"}
    return Package("cellar", "1.0", files, (f"python {MINOR}.*",), prefixed=prefixed, executables=("bin/cellar",))


def _globe() -> Package:
    script = f"""
        # As in the packages of GDAL and PROJ.
        if [ -d "$CONDA_PREFIX/share/globe" ]; then
            export GLOBE_DATA="$CONDA_PREFIX/share/globe:/usr/share/globe"
        fi
        export GLOBE_HOME={PLACEHOLDER}/share/globe GLOBE_SEEN="$GLOBE_SCALE" GLOBE_USER="${{USER:-nobody}}"
        export _GLOBE_OLD=1 CONDA_GLOBE=1 PATH="$CONDA_PREFIX/globe:$PATH" PYTHONPATH=/globe GLOBE_TOKEN=hunter2
        echo "The earth is round."
        [ -d /nowhere ] && export GLOBE_NOWHERE=1
    """
    files: dict[str, bytes | Path] = {
        "share/globe/earth.txt": b"round\n",
        "etc/conda/activate.d/globe.sh": script.encode(),
        "etc/conda/env_vars.d/globe.json": b'{"GLOBE_SCALE": "1:50", "GLOBE_UNIT": "km"}',
    }
    return Package("globe", "1.0", files, prefixed={"etc/conda/activate.d/globe.sh": "text"})


def _python(prefix: Path) -> Package:
    base = find_python(MINOR, uv=uv_binary(), deadline=Deadline(60, "Making a channel"))
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib" / f"python{MINOR}" / "site-packages").mkdir(parents=True)
    bundle_interpreter(prefix, base)
    # Pythons of conda use the default scheme, even if the system's Python (Debian) uses another.
    sysconfig = prefix / f"lib/python{MINOR}/sysconfig.py"
    sysconfig.write_text(
        sysconfig.read_text().replace("prefix_scheme = 'posix_local'", "prefix_scheme = 'posix_prefix'")
    )
    files: dict[str, bytes | Path] = {}
    prefixed = {"lib/built_at.bin": "binary"}
    for path in prefix.rglob("*"):
        name = path.relative_to(prefix).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        files[name] = path
        if path.name.startswith("_sysconfigdata") and str(base.prefix) in path.read_text():
            files[name] = path.read_text().replace(str(base.prefix), PLACEHOLDER).encode()
            prefixed[name] = "text"
    files["lib/built_at.bin"] = b"\xff\xfe" + PLACEHOLDER.encode() + b"\0\xff"
    return Package("python", base.version, files, prefixed=prefixed)
