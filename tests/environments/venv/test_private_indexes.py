"""Venvs and PEX files built from a private package index."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import Login, PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError

from ...support.build_contexts import build
from ...support.package_index import PASSWORD, Index, make_wheel, serve
from ...support.projects import make_library, write


def test_the_private_index_takes_precedence_over_the_public_one(index: Index, tmp_path: Path) -> None:
    make_wheel(tmp_path / "served", "six", "0.0.1")
    lines: list[str] = []
    environment = VenvEnvironment(["ours-only", "six", "tabulate"], index_conn_id="ours", bundle_python=False)
    login = Login(index.url, "me", PASSWORD)
    built = build(environment, tmp_path / "prefix", lines=lines, logins={"ours": login})
    assert built.packages["ours-only"] == "1.0"
    assert built.packages["six"] == "0.0.1", "the package of the public index was installed"
    assert "tabulate" in built.packages
    assert {status for path, status in index.asked if path.startswith("/files/ours")} <= {200, 401}
    everything = [*lines, repr(environment), repr(login), *built.lock, str(environment.to_dict())]
    assert not [text for text in everything if "hunter2" in text]
    found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
    assert not [path for path in found if b"hunter2" in path.read_bytes()]


def test_a_token_without_a_user_name_is_a_login(index: Index, tmp_path: Path) -> None:
    with serve(Index(index.wheels, "__token__", "abc")) as tokened:
        environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
        logins = {"ours": Login(tokened.url, password="abc")}
        assert build(environment, tmp_path / "prefix", logins=logins).packages == {"ours-only": "1.0"}


def test_a_pex_can_contain_packages_of_a_private_index(index: Index, tmp_path: Path) -> None:
    environment = PexEnvironment(["ours-only"], index_conn_id="ours")
    assert environment.conn_ids == ("ours",)
    lines: list[str] = []
    login = Login(index.url, "me", PASSWORD)
    built = build(environment, tmp_path / "prefix", lines=lines, logins={"ours": login})
    assert built.packages == {"ours-only": "1.0"}
    found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
    assert not [path for path in found if b"hunter2" in path.read_bytes()]
    assert not [line for line in [*lines, str(environment.to_dict())] if "hunter2" in line]


def test_a_refused_login_is_reported_without_the_password(index: Index, tmp_path: Path) -> None:
    environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
    wrong = Login(index.url, "me", f"{PASSWORD}-wrong")
    lines: list[str] = []
    with pytest.raises(BuildError, match=r"uv could not resolve the requirements") as caught:
        build(environment, tmp_path / "prefix", lines=lines, logins={"ours": wrong})
    assert "hunter2" not in str(caught.value) + "".join(lines)
    assert "ours-only" in str(caught.value)


def test_the_output_of_a_build_backend_is_shown_without_the_password(index: Index, tmp_path: Path) -> None:
    make_library(tmp_path / "my_lib", backend="setuptools.build_meta")
    code = "import os\nraise SystemExit(f'I saw {os.environ[\"UV_INDEX_SPARKDEPS_PASSWORD\"]} here')\n"
    write(tmp_path / "my_lib" / "setup.py", code)
    environment = VenvEnvironment(["./my_lib"], base_dir=tmp_path, index_conn_id="ours")
    lines: list[str] = []
    with pytest.raises(BuildError, match=r"I saw \*\*\* here") as caught:
        build(environment, tmp_path / "prefix", lines=lines, logins={"ours": Login(index.url, "me", PASSWORD)})
    assert "hunter2" not in "".join([*lines, str(caught.value)])


def test_no_process_shows_the_password(index: Index, tmp_path: Path) -> None:
    seen: set[bytes] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    environment = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
    build(environment, tmp_path / "prefix", logins={"ours": Login(index.url, "me", PASSWORD)})
    done.set()
    thread.join()
    assert [line for line in seen if b"compile" in line and b"uv" in line], "uv was not seen"
    assert not [line for line in seen if b"hunter2" in line]


@pytest.mark.parametrize("locked", [False, True])
def test_the_worker_may_have_the_login_of_an_index_that_a_project_names(
    locked: bool, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_NO_CACHE", "1")  # so that the installation asks the index, too
    monkeypatch.setenv("UV_INDEX_TEAM_USERNAME", "me")
    monkeypatch.setenv("UV_INDEX_TEAM_PASSWORD", PASSWORD)
    path = write(
        tmp_path / "app" / "pyproject.toml",
        '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.9"\ndependencies = ["ours-only"]\n'
        f'[[tool.uv.index]]\nname = "team"\nurl = "{index.url}"\nexplicit = true\n'
        '[tool.uv.sources]\nours-only = { index = "team" }\n',
    )
    if locked:
        subprocess.run([uv_binary(), "lock", "--quiet", "--python", sys.executable], cwd=path.parent, check=True)
    lines: list[str] = []
    built = build(VenvEnvironment.from_file(path, bundle_python=False), tmp_path / "prefix", lines=lines)
    assert built.packages == {"ours-only": "1.0"}
    assert "hunter2" not in "".join([*lines, *built.lock])
    found = [path for path in (tmp_path / "prefix").rglob("*") if path.is_file()]
    assert not [path for path in found if b"hunter2" in path.read_bytes()]


def test_a_missing_login_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="The login of connection 'ours' was not passed"):
        build(VenvEnvironment(["six"], index_conn_id="ours"), tmp_path / "prefix")


def test_the_connection_is_part_of_the_key() -> None:
    keys = {VenvEnvironment(["six"], index_conn_id=each).key for each in (None, "one", "other")}
    assert len(keys) == 3
