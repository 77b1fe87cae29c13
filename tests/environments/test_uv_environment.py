"""Arguments of environments that uv resolves: from a list, a file or a lock."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import Environment, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ..support.build_contexts import build
from ..support.projects import write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml", "uv.lock", "pylock.toml"])
def test_a_missing_file_is_reported_by_the_key_and_by_the_build(name: str, tmp_path: Path) -> None:
    environment = VenvEnvironment.from_file(tmp_path / name)
    for needs in (lambda: environment.key, lambda: build(environment, tmp_path / "prefix")):
        with pytest.raises(
            InvalidArgumentError, match=r"Could not read .*: No such file or directory\. Correct the path"
        ):
            needs()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VenvEnvironment(["six"], file="requirements.txt"), "requirements and file exclude each other"),
        (lambda: VenvEnvironment(["six"], extras=["fast"]), "extras and groups need a file to select from"),
        (lambda: VenvEnvironment.from_file(""), "is not a path"),
        (lambda: VenvEnvironment.from_file(42), "is not a path"),  # type: ignore[arg-type]
        (lambda: VenvEnvironment.from_file("p.toml", extras="fast"), r"Write extras=\[\"scoring\"\]"),
        (lambda: VenvEnvironment(["six"], index_conn_id=""), "is not a connection ID"),
    ],
)
def test_invalid_arguments_are_refused_at_once(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        make()


def test_manifests_contain_no_local_path(tmp_path: Path, library: Path) -> None:
    path = write(tmp_path / "requirements.txt", "six\n./my_lib\n")
    for environment in (
        VenvEnvironment.from_file(path, index_conn_id="ours"),
        VenvEnvironment.from_prefix(tmp_path / "venv", python="3.12"),
        VenvEnvironment([str(library), "six"]),
        VenvEnvironment(["./my_lib"], base_dir=tmp_path),
    ):
        assert str(tmp_path) not in json.dumps(environment.to_dict()) + environment.title


def test_an_environment_from_a_file_survives_pickle_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "requirements.txt", "six\n")
    environment = VenvEnvironment.from_file("requirements.txt", base_dir=tmp_path, bundle_python=False)
    assert pickle.loads(pickle.dumps(environment)) == environment
    # What travels names the file only: it is looked for where the data is read.
    copy = Environment.from_dict({**json.loads(json.dumps(environment.to_dict())), "base_dir": str(tmp_path)})
    assert copy.key == environment.key
