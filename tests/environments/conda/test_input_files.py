"""Environments from environment.yml and lock files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from .test_specs import ANY, SHA, SIX


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


def test_locks_of_all_formats_with_the_same_packages_have_the_same_key(tmp_path: Path) -> None:
    sha = SHA.removeprefix("sha256:")
    explicit = f"# made by conda\n@EXPLICIT\n{SIX}#{SHA}\n"
    other = {"conda": "https://example.com/channel/win-64/x-1-0.conda", "sha256": sha}
    selected = {"linux-64": [{"conda": SIX}], "win-64": [{"conda": other["conda"]}]}
    pixi = {
        "version": 6,
        "environments": {"default": {"packages": selected}, "other": {"packages": {"linux-64": []}}},
        "packages": [{"conda": SIX, "sha256": sha}, other],
    }
    package = {"name": "six", "version": "1.17.0", "manager": "conda", "hash": {"sha256": sha}, "url": SIX}
    conda_lock = {"version": 1, "package": [{**package, "platform": "linux-64"}, {**package, "platform": "osx-64"}]}
    paths = [
        write(tmp_path / "explicit.txt", explicit),
        write(tmp_path / "pixi.lock", json.dumps(pixi)),
        write(tmp_path / "conda-lock.yml", json.dumps(conda_lock)),
    ]
    keys = {CondaEnvironment.from_lock(path, platform="linux-x86_64").key for path in paths}
    assert keys == {CondaEnvironment(explicit=[f"{SIX}#{SHA}"], platform="linux-x86_64").key}


def test_pip_packages_of_a_lock_are_included(tmp_path: Path) -> None:
    wheel = "https://example.com/files/tabulate-0.9.0-py3-none-any.whl"
    git = "git+https://example.com/ours.git?rev=1#abc"
    selected = [{"conda": SIX}, {"pypi": wheel}, {"pypi": f"direct+{wheel}2.whl"}, {"pypi": git}]
    packages = [
        {"conda": SIX},
        {"pypi": wheel, "name": "tabulate", "version": "0.9.0"},
        {"pypi": f"direct+{wheel}2.whl", "name": "direct", "version": "1"},
        {"pypi": git, "name": "ours", "version": "1"},
    ]
    pixi = {"environments": {"default": {"packages": {"linux-64": selected}}}, "packages": packages}
    path = write(tmp_path / "pixi.lock", json.dumps(pixi))
    pip = (f"direct @ {wheel}2.whl", f"ours @ {git}", "tabulate==0.9.0")
    expected = CondaEnvironment(explicit=[SIX], pip=pip, platform="linux-x86_64")
    assert CondaEnvironment.from_lock(path, platform="linux-x86_64").key == expected.key


def test_a_lock_for_other_platforms_only_is_rejected(tmp_path: Path) -> None:
    pixi = {"environments": {"default": {"packages": {"win-64": []}}}, "packages": []}
    path = write(tmp_path / "pixi.lock", json.dumps(pixi))
    with pytest.raises(InvalidArgumentError, match="is not a conda lock for linux-64"):
        _ = CondaEnvironment.from_lock(path, platform="linux-x86_64").key
