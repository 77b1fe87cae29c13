"""An archive of packages from behind a password: that stands nowhere in what is left of its build."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import Login, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.operators.environment import BuildEnvironmentOperator

from ..support.package_index import PASSWORD, Index, make_wheel


def test_the_password_is_in_no_file_no_line_and_no_error(
    index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = ArchiveStore(tmp_path / "store")
    lines: list[str] = []
    good = VenvEnvironment(["ours-only"], index_conn_id="ours", bundle_python=False)
    lost = VenvEnvironment(["ours-only==9"], index_conn_id="ours", bundle_python=False)
    logins = {"ours": Login(index.url, "me", PASSWORD)}
    archive = store.build(good, timeout=60, progress=lines.append, logins=logins)
    store.build(good, timeout=60, progress=lines.append, logins=logins, refresh=True)
    with pytest.raises(BuildError, match="ours-only==9") as caught:
        store.build(lost, timeout=60, progress=lines.append, logins=logins)
    with pytest.raises(BuildError) as refused:
        store.build(lost, timeout=60, progress=lines.append, logins={"ours": Login(index.url, "me", f"{PASSWORD}!")})
    assert archive.packages == {"ours-only": "1.0"}
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"manifest.json", "checked.json", "build.json"}
    everything = [*lines, str(caught.value), str(refused.value), caplog.text, repr(archive), repr(good)]
    everything += [path.read_bytes().decode(errors="replace") for path in files]
    assert not [text for text in everything if "hunter2" in text]


class Pushed:
    """Stands for the task instance, of which the operator uses one method: what was pushed, by key."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}

    def xcom_push(self, key: str, value: object) -> None:
        self.values[key] = value


def test_an_operator_takes_the_login_from_its_connection(
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
        build_timeout=60,
        refresh=True,
    )
    ti = Pushed()
    assert operator.execute({"ti": ti})["lock"] == ["ours-only==1.0"]  # type: ignore[typeddict-item]
    assert ti.values == {"published": True}
    assert operator.execute({"ti": ti})["lock"] == ["ours-only==1.0"]  # type: ignore[typeddict-item]
    assert ti.values == {"published": False}
    make_wheel(index.wheels, "ours-only", "1.1")
    assert operator.execute({"ti": ti})["lock"] == ["ours-only==1.1"]  # type: ignore[typeddict-item]
