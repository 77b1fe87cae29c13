"""Environments from lock files."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment
from airflow_provider_sparkdeps.environments.conda.lock_files import read_lock
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import run_python
from ...support.conda_builds import Builder
from ...support.package_index import make_wheel
from .test_specs import ANY, SHA, SIX

HEX = SHA.removeprefix("sha256:")
COMMIT = "1" * 40
NAMED = {"name": "ours", "version": "1"}
WHEEL = "https://example.com/files/tabulate-0.9.0-py3-none-any.whl"
VERSION = ".".join(map(str, sys.version_info[:3]))


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pixi(*packages: dict[str, Any], platform: str = "linux-64", environment: str = "default") -> dict[str, Any]:
    """A pixi.lock of version 6, of packages with the keys `conda` or `pypi`."""
    selected = [{kind: each[kind]} for each in packages for kind in ("conda", "pypi") if kind in each]
    content = {"channels": [{"url": f"{ANY}/"}], "packages": {platform: selected, "win-64": []}}
    return {"version": 6, "environments": {environment: content}, "packages": packages}


def conda_lock(*packages: dict[str, Any]) -> dict[str, Any]:
    """A conda-lock.yml of version 1."""
    metadata = {"content_hash": {}, "channels": [], "platforms": ["linux-64", "osx-64"], "sources": []}
    common = {"version": "1.0", "manager": "conda", "platform": "linux-64", "dependencies": {}, "category": "main"}
    return {"version": 1, "metadata": metadata, "package": [{**common, "optional": False, **each} for each in packages]}


def locked(path: Path, environment: str = "default") -> tuple[list[str], dict[str, str]]:
    """The conda packages with their hashes, and the requirements for pip."""
    found = read_lock(path, platform="linux-x86_64", environment=environment)
    conda = [f"{each.url}#{each.sha256.hex() if each.sha256 else None}" for each in found.conda]
    return sorted(conda), dict(found.pip)


def test_all_formats_with_the_same_packages_are_the_same_environment(tmp_path: Path) -> None:
    old = {"kind": "conda", "name": "six", "version": "1.17.0", "build": "pyhe01879c_1", "subdir": "noarch"}
    old |= {"noarch": "python", "url": SIX, "sha256": HEX, "md5": "ab" * 16}
    v4 = pixi({"conda": SIX, "sha256": HEX})
    v4 |= {"version": 4, "packages": [old]}
    v7 = pixi({"conda": SIX, "sha256": HEX}, platform="our-cluster")
    v7 |= {"version": 7, "platforms": [{"name": "our-cluster", "subdir": "linux-64"}, {"name": "win-64"}]}
    six = {"name": "six", "hash": {"sha256": HEX, "md5": "ab" * 16}, "url": SIX}
    formats = {
        "explicit.txt": f"# made by conda\n@EXPLICIT\n\n# platform: linux-64\n{SIX}#{SHA}\n",
        "v4.lock": v4,
        "v5.lock": {**v4, "version": 5},
        "v6.lock": pixi({"conda": SIX, "sha256": HEX}),
        "v7.lock": v7,
        "conda-lock.yml": conda_lock(six, {**six, "platform": "osx-64"}),
        "v3.lock": {**conda_lock(six), "version": 3},
    }
    for name, content in formats.items():
        assert locked(write(tmp_path / name, content)) == ([f"{SIX}#{HEX}"], {}), name


def test_the_key_depends_on_the_text_of_a_lock_and_on_its_environment(tmp_path: Path) -> None:
    path = write(tmp_path / "pixi.lock", "version: 6")
    key = CondaEnvironment.from_lock(path).key
    assert CondaEnvironment.from_lock(path, environment="gpu").key != key
    assert CondaEnvironment.from_lock(path, pip=["tabulate"]).key != key
    assert CondaEnvironment.from_lock(write(tmp_path / "other.lock", "version: 6")).key == key
    write(path, "version: 6 ")
    assert CondaEnvironment.from_lock(path).key != key


@pytest.mark.parametrize(
    ("package", "requirement"),
    [
        ({"pypi": WHEEL, "sha256": HEX}, f"ours @ {WHEEL}#sha256={HEX}"),
        ({"pypi": WHEEL}, f"ours @ {WHEEL}"),
        ({"pypi": f"direct+{WHEEL}"}, f"ours @ {WHEEL}"),
        ({"pypi": f"git+https://example.com/o.git?rev=v1#{COMMIT}"}, f"ours @ git+https://example.com/o.git@{COMMIT}"),
        ({"pypi": f"git+https://example.com/o.git@{COMMIT}"}, f"ours @ git+https://example.com/o.git@{COMMIT}"),
        (
            {"pypi": f"git+ssh://git@example.com/o?branch=main&subdirectory=lib#{COMMIT}"},
            f"ours @ git+ssh://git@example.com/o@{COMMIT}#subdirectory=lib",
        ),
    ],
)
def test_what_pixi_locks_for_pip_is_installed_from_its_url(
    tmp_path: Path, package: dict[str, Any], requirement: str
) -> None:
    path = write(tmp_path / "pixi.lock", pixi({"conda": SIX}, {"name": "ours", "version": "1.0", **package}))
    assert locked(path)[1] == {"ours": requirement}


@pytest.mark.parametrize(
    ("url", "digest", "requirement"),
    [
        (WHEEL, HEX, f"ours @ {WHEEL}#sha256={HEX}"),
        # conda-lock writes the commit as sha256.
        (f"git+https://example.com/o.git@{COMMIT}", COMMIT, f"ours @ git+https://example.com/o.git@{COMMIT}"),
    ],
)
def test_what_conda_lock_locks_for_pip_is_installed_from_its_url(
    tmp_path: Path, url: str, digest: str, requirement: str
) -> None:
    ours = {"name": "ours", "manager": "pip", "url": url, "hash": {"sha256": digest}}
    six = {"name": "six", "hash": {"sha256": HEX}, "url": SIX}
    assert locked(write(tmp_path / "conda-lock.yml", conda_lock(six, ours)))[1] == {"ours": requirement}


def test_optional_packages_and_other_categories_of_conda_lock_are_left_out(tmp_path: Path) -> None:
    def package(name: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "hash": {"sha256": HEX}, "url": f"{ANY}/noarch/{name}-1.0-0.conda", **more}

    both = [package("both", category="dev", optional=True), package("both")]
    others = [
        package("pytest", category="dev", optional=True),
        package("docs", category="docs"),
        package("x", optional=True),
    ]
    path = write(tmp_path / "conda-lock.yml", conda_lock(*both, *others))
    assert locked(path)[0] == [f"{ANY}/noarch/both-1.0-0.conda#{HEX}"]
    yaml = subprocess.run(
        [sys.executable, "-c", "import json, sys, yaml; print(yaml.safe_dump(json.load(sys.stdin)))"],
        input=path.read_text(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert locked(write(path, yaml))[0] == [f"{ANY}/noarch/both-1.0-0.conda#{HEX}"]


@pytest.mark.parametrize(
    ("line", "requirement"),
    [
        (f"# pip ours @ {WHEEL}#sha256={HEX}", f"ours @ {WHEEL}#sha256={HEX}"),
        (f"# pip ours @ {WHEEL} --hash=sha256:{HEX}", f"ours @ {WHEEL}#sha256={HEX}"),
        (f"# pip ours @ {WHEEL}", f"ours @ {WHEEL}"),
        (f"# pip ours @ git+https://example.com/o.git@{COMMIT}", f"ours @ git+https://example.com/o.git@{COMMIT}"),
    ],
)
def test_lines_for_pip_in_an_explicit_list_are_installed(tmp_path: Path, line: str, requirement: str) -> None:
    path = write(tmp_path / "explicit.txt", f"# pipes are fine\n@EXPLICIT\n{SIX}#{SHA}\n{line}\n")
    assert locked(path) == ([f"{SIX}#{HEX}"], {"ours": requirement})


@pytest.mark.parametrize(
    "line",
    [
        "# pip ours === 1.0",
        "# pip ours==1.0 --hash=sha256:ab",
        "# pip -r x.txt",
        "# pip ours @ ./ours",
        f"# pip twice @ {ANY}",
    ],
)
def test_other_lines_for_pip_in_an_explicit_list_are_rejected(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "explicit.txt", f"@EXPLICIT\n{SIX}\n# pip twice @ {WHEEL}\n{line}\n")
    with pytest.raises(InvalidArgumentError, match=f"'{line}' in .*explicit.txt is not `# pip name @ URL#sha256="):
        locked(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f"# platform: osx-64\n@EXPLICIT\n{SIX}", "is a lock for osx-64, not for linux-64"),
        ("@EXPLICIT\nsix=1.17", "is not a list of URLs: failed to parse url 'six=1.17'"),
        (f"@EXPLICIT\n{SIX}#nonsense", "is not the URL of a conda package"),
    ],
)
def test_an_explicit_list_that_can_not_be_installed_is_rejected(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        locked(write(tmp_path / "explicit.txt", lines))
    with pytest.raises(InvalidArgumentError, match="has no environment 'gpu'"):
        locked(write(tmp_path / "explicit.txt", f"@EXPLICIT\n{SIX}"), "gpu")


def test_environments_and_platforms_of_a_lock_are_named_if_the_wanted_one_is_missing(tmp_path: Path) -> None:
    other = f"{ANY}/osx-64/x-1-0.conda"
    path = write(tmp_path / "pixi.lock", pixi({"conda": other}, platform="osx-64", environment="test"))
    with pytest.raises(InvalidArgumentError, match=r"pixi\.lock has no environment 'default', but test\. Pass one"):
        locked(path)
    message = r"'test' in .*pixi\.lock has packages for osx-64, and not for linux-64\. Lock for it"
    with pytest.raises(InvalidArgumentError, match=message):
        locked(path, "test")


def test_two_platforms_of_pixi_that_could_be_meant_are_rejected(tmp_path: Path) -> None:
    """Pixi has names of its own for platforms, one of which may be conda's."""
    content = pixi({"conda": SIX, "sha256": HEX}, platform="cpu")
    packages = content["environments"]["default"]["packages"]
    packages["gpu"] = packages["cpu"]
    platforms = [{"name": name, "subdir": "linux-64"} for name in ("cpu", "gpu", "linux-64")]
    content |= {"version": 7, "platforms": [*platforms, {"name": "win-64"}]}
    with pytest.raises(InvalidArgumentError, match=r"has packages for cpu, gpu, and not for linux-64"):
        locked(write(tmp_path / "pixi.lock", content))
    packages["linux-64"] = packages["cpu"]
    assert locked(write(tmp_path / "pixi.lock", content))[0] == [f"{SIX}#{HEX}"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**pixi({"conda": SIX}), "version": 99}, "newer lockfile format version 99, but only up to .* version 7"),
        ({"environments": {}, "packages": []}, "missing `version` field"),
        ("- a", "missing `version` field"),
        ("", "missing `version` field"),
        ({**conda_lock(), "package": ["six"]}, "is not a lock that rattler can read"),
        (pixi({"conda": SIX}, {"pypi": "./ours", **NAMED}), r"ours in .* local project \./ours"),
        (pixi({"conda": SIX}, {"pypi": "git+https://example.com/o", **NAMED}), "ours in .* has no commit"),
        (pixi({"conda": "./rust", **NAMED, "build": "h_0", "subdir": "linux-64"}), r"ours in .* \./rust"),
        (pixi({"conda": "./ours-1-h_0.conda", **NAMED, "build": "h_0", "subdir": "linux-64"}), r"\./ours-1-h_0\.conda"),
    ],
)
def test_a_lock_that_can_not_be_installed_is_rejected(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        locked(write(tmp_path / "pixi.lock", content))


@pytest.mark.parametrize(
    "text",
    [
        "@EXPLICIT\nhttps://me:hunter2@example.com/noarch/six-1.17.0-py_0.conda",
        "@EXPLICIT\n# pip ours @ https://example.com/ours.whl?token=hunter2",
        "version: 6\nenvironments: {default: {channels: [{url: https://example.com/t/hunter2/channel/}]}}",
        '{"package": [{"url": "git+https://hunter2@example.com/ours.git@1"}]}',
    ],
)
def test_credentials_in_a_lock_are_rejected_before_anything_runs(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="contains credentials") as caught:
        _ = CondaEnvironment.from_lock(write(tmp_path / "lock", text)).key
    assert "hunter2" not in str(caught.value)
    accepted = write(tmp_path / "lock", f"@EXPLICIT\n# pip o @ git+ssh://git@example.com/o.git@{COMMIT}")
    assert CondaEnvironment.from_lock(accepted).key


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a wheel of `tabulate` that is on no index."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    wheel = make_wheel(tmp_path / "files", "tabulate", "0.9.0")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(wheel.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{wheel.name}"
        server.shutdown()


def lock_of(kind: str, channel: str, url: str, digest: str) -> object:
    """A lock of Python and cheese 1.0 from the channel, and of tabulate from a URL."""
    conda = [f"{channel}/linux-64/python-{VERSION}-h0_0.conda", f"{channel}/noarch/cheese-1.0-py_0.conda"]
    sha256 = [hashlib.sha256(Path(each.removeprefix("file://")).read_bytes()).hexdigest() for each in conda]
    if kind == "pixi":
        # As pixi writes them for what it can't derive from a file:// URL.
        more = [{"name": "python", "version": VERSION, "build": "h0_0", "subdir": "linux-64"}]
        more += [{"name": "cheese", "version": "1.0", "build": "py_0", "subdir": "noarch", "noarch": "python"}]
        packages = [
            {"conda": each, "sha256": checksum, **fields}
            for each, checksum, fields in zip(conda, sha256, more, strict=True)
        ]
        return pixi(*packages, {"pypi": url, "name": "tabulate", "version": "0.9.0", "sha256": digest})
    if kind == "explicit":
        urls = [f"{each}#sha256:{checksum}" for each, checksum in zip(conda, sha256, strict=True)]
        return "\n".join(["@EXPLICIT", *urls, f"# pip tabulate @ {url}#sha256={digest}"])
    listed = [
        {"name": name, "version": version, "url": each, "hash": {"sha256": checksum}}
        for (name, version), each, checksum in zip([("python", VERSION), ("cheese", "1.0")], conda, sha256, strict=True)
    ]
    ours = {"name": "tabulate", "version": "0.9.0", "manager": "pip", "url": url, "hash": {"sha256": digest}}
    return conda_lock(*listed, ours)


@pytest.mark.parametrize("kind", ["pixi", "conda-lock", "explicit"])
def test_exactly_the_files_of_a_lock_are_installed(
    build: Builder, channel: str, files: str, tmp_path: Path, kind: str
) -> None:
    wheel = tmp_path / "files" / files.rpartition("/")[2]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    path = write(tmp_path / "lock", lock_of(kind, channel, files, digest))
    prefix, built = build(environment=CondaEnvironment.from_lock(path))
    assert built.packages == {"cheese": "1.0", "tabulate": "0.9.0"}
    assert f"pip:tabulate @ {files}#sha256={digest}" in built.lock
    # The release of that number on PyPI has no such attribute.
    assert run_python(prefix, "import cheese, tabulate; print(cheese.__version__, tabulate.VERSION)") == "1.0 0.9.0"


@pytest.mark.parametrize("kind", ["pixi", "conda-lock", "explicit"])
@pytest.mark.parametrize("more", [{}, {"pip": ["six"]}])
def test_a_file_for_pip_that_is_not_the_locked_one_is_rejected(
    build: Builder, channel: str, files: str, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    path = write(tmp_path / "lock", lock_of(kind, channel, files, HEX))
    with pytest.raises(BuildError, match=f"(?s)tabulate.*sha256:{HEX}"):
        build(environment=CondaEnvironment.from_lock(path, **more))


def test_a_package_that_is_locked_for_conda_and_for_pip_is_rejected(
    build: Builder, channel: str, files: str, tmp_path: Path
) -> None:
    text = str(lock_of("explicit", channel, files, HEX)).replace("pip tabulate", "pip Cheese")
    with pytest.raises(BuildError, match="The lock has cheese both as a conda package and as a package of pip"):
        build(environment=CondaEnvironment.from_lock(write(tmp_path / "lock", text)))


def test_a_locked_commit_is_installed(build: Builder, channel: str, files: str, tmp_path: Path) -> None:
    source = tmp_path / "ours"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tabulate"\nversion = "0.9.0"\n'
    )
    (source / "backend.py").write_text(
        "import pathlib, shutil\n\ndef build_wheel(target, settings=None, metadata=None):\n"
        f"    wheel = next(pathlib.Path({str(tmp_path / 'files')!r}).glob('*.whl'))\n"
        "    return pathlib.Path(shutil.copy(wheel, target)).name\n"
    )
    git = ["git", "-C", str(source), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    content = lock_of("pixi", channel, f"git+file://{source}?rev=main#{commit}", HEX)
    _, built = build(environment=CondaEnvironment.from_lock(write(tmp_path / "lock", content)))
    assert built.packages == {"cheese": "1.0", "tabulate": "0.9.0"}
    assert f"pip:tabulate @ git+file://{source}@{commit}" in built.lock
