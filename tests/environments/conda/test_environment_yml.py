"""Environments from environment.yml files, and when files are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from .test_specs import ANY, SIX


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_an_environment_yml_has_the_key_of_its_dependencies(tmp_path: Path) -> None:
    text = f"""
        name: ignored
        channels: [{ANY}, nodefaults]
        dependencies:
          - six =1.17   # a comment
          - numpy
          - pip
          - pip:
            - tabulate
        """
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text))
    key = CondaEnvironment(["numpy", "six=1.17", "pip"], channels=[ANY], pip=["tabulate"]).key
    assert environment.key == key
    write(tmp_path / "environment.yml", text.replace("numpy", "numpy   # fast").replace("ignored", "x"))
    assert environment.key == key
    write(tmp_path / "environment.yml", text.replace("numpy", "scipy"))
    assert environment.key != key


@pytest.mark.parametrize("make", [CondaEnvironment.from_file, CondaEnvironment.from_lock])
def test_a_file_is_read_when_the_key_is_asked_for(make: Callable[[Path], CondaEnvironment], tmp_path: Path) -> None:
    environment = make(tmp_path / "missing.yml")
    with pytest.raises(InvalidArgumentError, match=r"missing\.yml"):
        _ = environment.key


def test_relative_paths_start_from_the_file_that_creates_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dags").mkdir()
    write(tmp_path / "dags/environment.yml", f"channels: [{ANY}]\ndependencies: [six]")
    write(tmp_path / "dags/explicit.txt", f"@EXPLICIT\n{SIX}")
    dag_file = {"__file__": str(tmp_path / "dags/dag.py"), "__name__": "dag", "Conda": CondaEnvironment}
    code = "from_file = Conda.from_file('environment.yml')\nfrom_lock = Conda.from_lock('explicit.txt')"
    exec(compile(code, "dag.py", "exec"), dag_file)
    monkeypatch.chdir("/")
    for name, key in (
        ("from_file", CondaEnvironment(["six"], channels=[ANY]).key),
        ("from_lock", CondaEnvironment(explicit=[SIX]).key),
    ):
        environment = dag_file[name]
        assert isinstance(environment, CondaEnvironment)
        assert environment.key == key
        data = json.loads(json.dumps(environment.to_dict()))
        assert Environment.from_dict({**data, "base_dir": str(tmp_path / "dags")}).key == key


def test_the_channels_argument_is_used_if_the_file_has_no_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "environment.yml", "dependencies: [six]")
    assert CondaEnvironment.from_file(path, channels=[ANY]).key == CondaEnvironment(["six"], channels=[ANY]).key
    with pytest.raises(InvalidArgumentError, match="channels is empty"):
        _ = CondaEnvironment.from_file(path).key


@pytest.mark.parametrize("text", ["", "- six", "dependencies: six", "{", "dependencies: [{conda: [x]}]"])
def test_a_file_that_is_not_an_environment_yml_is_rejected(tmp_path: Path, text: str) -> None:
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text), channels=[ANY])
    with pytest.raises(InvalidArgumentError):
        _ = environment.key
