"""BuildEnvironmentOperator: private indexes, and what it pushes to XCom."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import Login, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator

from ..support.package_index import PASSWORD, Index, make_wheel

if TYPE_CHECKING:
    from airflow.sdk import Context


def test_the_password_of_an_index_is_in_no_file_log_line_or_error(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = ArchiveStore(tmp_path / "store")
    lines: list[str] = []
    available = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
    missing = VenvEnvironment(["ours-only==9"], index_conn_id="ours", bundle_python=False)
    logins = {"ours": Login(index.url, "me", PASSWORD)}
    archive = store.build(available, timeout=300, progress=lines.append, logins=logins)
    store.build(available, timeout=300, progress=lines.append, logins=logins, refresh=True)
    with pytest.raises(BuildError, match="ours-only==9") as caught:
        store.build(missing, timeout=300, progress=lines.append, logins=logins)
    with pytest.raises(BuildError) as refused:
        store.build(
            missing, timeout=300, progress=lines.append, logins={"ours": Login(index.url, "me", f"{PASSWORD}!")}
        )
    assert archive.packages == {"ours-only": "1.0"}
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "checked.json", "build.json"}
    everything = [*lines, str(caught.value), str(refused.value), caplog.text, repr(archive), repr(available)]
    everything += [path.read_bytes().decode(errors="replace") for path in files]
    assert not [each for each in everything if "hunter2" in each]


class FakeTaskInstance:
    """A fake of the only method of the task instance that the operator calls; records what was pushed, by key."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}

    def xcom_push(self, key: str, value: object) -> None:
        self.values[key] = value


def test_the_login_comes_from_a_connection_and_published_says_whether_there_is_a_new_archive(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = index.url.replace(
        "http://", f"http://me:{PASSWORD.replace('%', '%25').replace('/', '%2F').replace('@', '%40')}@"
    )
    monkeypatch.setenv("AIRFLOW_CONN_OURS", f'{{"conn_type": "http", "host": "{url}"}}')
    operator = BuildEnvironmentOperator(
        task_id="build",
        environment=VenvEnvironment(["ours-only>=1"], index_conn_id="ours", bundle_python=False),
        archive_store=str(tmp_path / "store"),
        build_timeout=300,
        refresh=True,
    )
    ti = FakeTaskInstance()
    context = cast("Context", {"ti": ti})
    assert operator.execute(context)["lock"] == ["ours-only==1.0"]
    assert ti.values == {"published": True}
    assert operator.execute(context)["lock"] == ["ours-only==1.0"]
    assert ti.values == {"published": False}
    make_wheel(index.wheels, "ours-only", "1.1")
    assert operator.execute(context)["lock"] == ["ours-only==1.1"]
    assert ti.values == {"published": True}
