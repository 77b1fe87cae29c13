"""Errors of the solver, and private channels and indexes."""

from __future__ import annotations

import _thread
import base64
import http.server
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rattler import MultiSource

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import CondaEnvironment, Login
from airflow_provider_sparkdeps.environments.conda import rattler
from airflow_provider_sparkdeps.environments.conda.rattler import CONDA_TOKEN
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import make_context
from ...support.conda_builds import Builder
from ...support.conda_channel import Package, write_package
from ...support.conda_channel import index as index_channel
from ...support.package_index import PASSWORD as INDEX_PASSWORD
from ...support.package_index import Index
from .test_specs import ANY

PASSWORD = "hunter2-and-more"


@pytest.fixture
def private_channel(channel: str) -> Iterator[str]:
    """The channel over HTTP with a password; returns its URL."""
    basic = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=channel.removeprefix("file://"))

        def send_head(self) -> Any:
            token = f"/t/{PASSWORD}"
            if self.path.startswith(token):
                self.path = self.path.removeprefix(token)
            elif self.headers.get("Authorization") not in (f"Basic {basic}", f"Bearer {PASSWORD}"):
                self.send_error(401)
                return None
            self.path = self.path.removeprefix("/private")
            return super().send_head()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/private"
        server.shutdown()


def test_the_solver_explains_a_conflict(build: Builder) -> None:
    message = r"(?s)rattler could not solve.*cracker.*would require\s+.*cheese <2"
    with pytest.raises(BuildError, match=message) as caught:
        build("cheese=2.0", "cracker")
    assert len(str(caught.value).splitlines()) < 45


def test_a_missing_package_is_named(build: Builder) -> None:
    with pytest.raises(BuildError, match="No candidates were found for nosuch"):
        build("nosuch")


def test_a_spec_that_was_not_checked_for_lack_of_rattler_is_rejected_by_the_build(
    build: Builder, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rattler", None)
        environment = CondaEnvironment(["cheese => 2"], channels=[channel])
    with pytest.raises(InvalidArgumentError, match=r"'cheese => 2' is not a conda spec: unable to parse version spec"):
        build(environment=environment)


def solve(*dependencies: str, channels: list[str]) -> list[str]:
    """The exact packages without Python, and without their hashes."""
    lock = CondaEnvironment(dependencies, channels=channels).resolve_lock(make_context())
    return [line.split()[0] for line in lock if not line.startswith("python=")]


@pytest.mark.parametrize(
    "spec", ["=1.0=py_0", " <2 py*", "==1.*", "=1.*", " 1.0", "[version='1.0']", "[version='<2', build='py*']"]
)
def test_all_spellings_of_a_spec_are_solved(channel: str, spec: str) -> None:
    assert solve(f"cheese{spec}", channels=[channel]) == ["cheese=1.0=py_0"]


@pytest.fixture
def other_channels(tmp_path: Path) -> tuple[str, str]:
    """Two channels with one package each of their own, and other versions of cheese."""
    urls = []
    for name, version in (("bread", "3.0"), ("butter", "4.0")):
        write_package(tmp_path / name, Package("cheese", version, {}))
        write_package(tmp_path / name, Package(name, "1.0", {}))
        urls.append(index_channel(tmp_path / name))
    return urls[0], urls[1]


def test_the_channel_of_a_spec_is_searched_last(channel: str, other_channels: tuple[str, str]) -> None:
    bread, _ = other_channels
    assert solve(f"{bread}::bread", "cheese", channels=[channel]) == ["bread=1.0=h0_0", "cheese=2.0=py_0"]
    assert solve(f"{bread}::cheese", channels=[channel]) == ["cheese=3.0=h0_0"]
    namesake = Path(bread.removeprefix("file://")).parent / "other" / "bread"
    write_package(namesake, Package("roll", "1.0", {}))
    both = [f"{bread}::bread", f"{index_channel(namesake)}::roll"]
    assert solve(*both, channels=[channel]) == ["bread=1.0=h0_0", "roll=1.0=h0_0"]
    assert solve("bread", f"{bread}::cheese", channels=[channel]) == ["bread=1.0=h0_0", "cheese=3.0=h0_0"]


def test_defaults_are_the_channels_of_anaconda_and_share_their_priority(
    channel: str, other_channels: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local channels stand for those of Anaconda, which tests can't reach."""
    (main,) = rattler._sources(["defaults"], [])
    assert isinstance(main, MultiSource)
    assert main.sources == [
        "https://repo.anaconda.com/pkgs/main",
        "https://repo.anaconda.com/pkgs/r",
    ]
    monkeypatch.setattr(rattler, "DEFAULTS", dict(zip(rattler.DEFAULTS, other_channels, strict=True)))
    bread, butter = "bread=1.0=h0_0", "butter=1.0=h0_0"
    assert solve("bread", "butter", "cheese", channels=[channel, "defaults"]) == [bread, butter, "cheese=2.0=py_0"]
    assert solve("bread", "butter", "cheese", channels=["defaults", channel]) == [bread, butter, "cheese=4.0=h0_0"]
    assert solve("butter", "cheese", channels=["pkgs/main", channel, "defaults"]) == [butter, "cheese=3.0=h0_0"]
    assert solve("defaults::cheese", channels=[channel]) == ["cheese=4.0=h0_0"]
    for channels in ([channel], ["defaults", channel], [channel, "pkgs/main"]):
        assert solve("pkgs/main::cheese", channels=channels) == ["cheese=3.0=h0_0"]


@pytest.mark.parametrize("username", ["me", "", CONDA_TOKEN])
def test_a_login_gives_access_to_a_private_channel_and_is_not_in_the_archive(
    private_channel: str, tmp_path: Path, username: str
) -> None:
    environment = CondaEnvironment(["cheese"], channels=[private_channel], channel_conn_ids=["ours"])
    logins = {"ours": Login(private_channel, username, PASSWORD)}
    lines: list[str] = []
    store = ArchiveStore(tmp_path / "store")
    archive = store.build(environment, timeout=60, progress=lines.append, logins=logins)
    assert archive.packages == {"cheese": "2.0"}
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "-xzf", store.fetch(archive), "-C", unpacked], check=True)
    content = b"".join(path.read_bytes() for path in unpacked.glob("conda-meta/*"))
    assert PASSWORD not in "\n".join([json.dumps(archive.to_dict()), *lines, repr(environment)])
    assert PASSWORD.encode() not in content


def test_a_private_channel_without_a_login_is_an_error(private_channel: str, build: Builder) -> None:
    with pytest.raises(BuildError, match="401"):
        build("cheese", channels=[private_channel])


@pytest.mark.parametrize("arguments", [{"channel_conn_ids": ["ours"]}, {"index_conn_id": "ours", "pip": ["six"]}])
def test_a_missing_login_is_named(build: Builder, arguments: dict[str, Any]) -> None:
    with pytest.raises(BuildError, match="The login of connection 'ours' was not passed"):
        build("cheese", **arguments)


def test_a_wrong_login_is_not_repeated(private_channel: str, build: Builder) -> None:
    for username in ("me", "", CONDA_TOKEN):
        logins = {"ours": Login(private_channel, username, "wrong-secret")}
        with pytest.raises(BuildError, match="401") as caught:
            build("cheese", channels=[private_channel], channel_conn_ids=["ours"], logins=logins)
        assert "wrong-secret" not in str(caught.value)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also in a process that a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("ends_by", ["timeout", "interrupt"])
def test_a_build_that_is_stopped_leaves_no_login_behind(
    build: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    seen: list[tuple[int, str]] = []

    def wait_for_request() -> None:
        with silent.accept()[0]:
            seen.extend((path.stat().st_mode & 0o777, path.read_text()) for path in temporary.glob("*.json"))
            if ends_by == "interrupt":
                _thread.interrupt_main()
            finished.wait(90)

    finished = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/channel"
        thread = threading.Thread(target=wait_for_request)
        thread.start()
        logins = {"ours": Login(url, "me", PASSWORD)}
        timeout = 10 if ends_by == "timeout" else 60
        with pytest.raises(BuildError if ends_by == "timeout" else KeyboardInterrupt):
            build("cheese", channels=[url], channel_conn_ids=["ours"], logins=logins, timeout=timeout)
        finished.set()
        thread.join()
    ((mode, content),) = seen
    assert mode == 0o600
    assert PASSWORD in content
    assert not list(temporary.iterdir())


def test_a_login_gives_access_to_a_private_index_and_is_not_in_the_environment(
    build: Builder, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    logins = {"pypi": Login(index.url, "me", INDEX_PASSWORD)}
    moved, built = build("cheese", pip=["ours-only"], index_conn_id="pypi", logins=logins, lines=lines)
    assert built.packages == {"cheese": "2.0", "ours-only": "1.0"}
    assert INDEX_PASSWORD not in f"{lines}{built}"
    assert not [path for path in moved.rglob("*") if path.is_file() and INDEX_PASSWORD.encode() in path.read_bytes()]
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "empty"))
    wrong = {"pypi": Login(index.url, "me", "wrong-secret")}
    with pytest.raises(BuildError, match="uv could not resolve") as caught:
        build("cheese", pip=["ours-only"], index_conn_id="pypi", logins=wrong)
    assert "wrong-secret" not in str(caught.value)


def test_two_logins_for_one_host_are_rejected(build: Builder) -> None:
    logins = {name: Login(ANY, "me", name) for name in ("one", "two")}
    with pytest.raises(BuildError, match=r"two different logins for example\.com") as caught:
        build("cheese", channel_conn_ids=["one", "two"], logins=logins)
    assert "None" not in str(caught.value)


def test_a_channel_that_never_answers_is_given_up_at_the_deadline(build: Builder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/channel"
        with pytest.raises(BuildError, match=r"timeout of 1\.5 s.* reading the channels and solving"):
            build("cheese", channels=[url], timeout=1.5)
