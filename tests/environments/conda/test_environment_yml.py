"""Environments from environment.yml files, and when files are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.conda_builds import Builder
from .test_activation import GLOBE
from .test_specs import ANY, SIX

VERSION = ".".join(map(str, sys.version_info[:3]))


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
    key = CondaEnvironment(["numpy", "six =1.17", "pip"], channels=[ANY], pip=["tabulate"]).key
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
        ("from_lock", CondaEnvironment.from_lock(tmp_path / "dags/explicit.txt").key),
    ):
        environment = dag_file[name]
        assert isinstance(environment, CondaEnvironment)
        assert environment.key == key
        data = json.loads(json.dumps(environment.to_dict()))
        assert Environment.from_dict({**data, "base_dir": str(tmp_path / "dags")}).key == key


def test_the_channels_argument_is_used_if_the_file_has_no_channels(tmp_path: Path) -> None:
    path = write(tmp_path / "environment.yml", "dependencies: [six]")
    assert CondaEnvironment.from_file(path, channels=[ANY]).key == CondaEnvironment(["six"], channels=[ANY]).key
    with pytest.raises(InvalidArgumentError, match=r"environment\.yml names no channels, .*`channels:`.*defaults"):
        _ = CondaEnvironment.from_file(path).key


def test_a_file_with_only_a_pip_section_needs_channels_for_python(build: Builder, channel: str, tmp_path: Path) -> None:
    path = write(tmp_path / "environment.yml", "dependencies: [pip: [tabulate]]")
    with pytest.raises(InvalidArgumentError, match=r"environment\.yml names no channels"):
        _ = CondaEnvironment.from_file(path).key
    _, built = build(environment=CondaEnvironment.from_file(path, channels=[channel]))
    assert built.packages.keys() == {"tabulate"}


@pytest.mark.parametrize("channels", ["defaults", "nodefaults", "nodefaults, defaults", "conda-forge, defaults"])
def test_defaults_is_a_channel_and_nodefaults_is_none(tmp_path: Path, channels: str) -> None:
    path = write(tmp_path / "environment.yml", f"channels: [{channels}]\ndependencies: [six]")
    expected = [each for each in channels.split(", ") if each != "nodefaults"] or ["conda-forge"]
    passed = ["conda-forge"] if channels == "nodefaults" else []
    key = CondaEnvironment(["six"], channels=expected).key
    assert CondaEnvironment.from_file(path, channels=passed).key == key


def test_channels_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "environment.yml", f"channels: [{ANY}]\ndependencies: [six]")
    with pytest.raises(InvalidArgumentError, match=r"has channels, and channels=\['bioconda'\] are passed"):
        _ = CondaEnvironment.from_file(path, channels=["bioconda"]).key


def test_variables_are_in_the_built_environment_and_in_the_key(build: Builder, channel: str, tmp_path: Path) -> None:
    text = f"channels: ['{channel}']\ndependencies: [cheese]\nvariables:\n  KIND: 'brie $HOME'\n  AGE: {{}}\n"
    path = write(tmp_path / "environment.yml", text.format(3))
    environment = CondaEnvironment.from_file(path)
    key = environment.key
    assert build(environment=environment)[1].env_vars == {"KIND": "brie $HOME", "AGE": "3"}
    write(path, text.format(4))
    assert environment.key != key


def test_variables_of_the_file_take_precedence_and_are_seen_by_scripts(
    build: Builder, channel: str, tmp_path: Path
) -> None:
    text = "channels: ['{}']\ndependencies: [globe]\nvariables: {{GLOBE_SCALE: '1:99', GLOBE_DATA: /ours, MINE: a}}"
    (tmp_path / "environment.yml").write_text(text.format(channel))
    _, built = build(environment=CondaEnvironment.from_file(tmp_path / "environment.yml"))
    mine = {"GLOBE_DATA": "/ours", "GLOBE_SCALE": "1:99", "GLOBE_SEEN": "1:99", "MINE": "a"}
    assert built.env_vars == {**GLOBE, **mine}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ("[A, B]", "`variables` in .* is not a mapping"),
        ("{LEVEL: 1.10}", r"variable LEVEL in .* is 1\.1 in YAML"),
        ("{ON: yes}", r"variable \w+ in .* is True in YAML"),
        ("{EMPTY: }", "variable EMPTY in .* is None in YAML"),
        ("{PYTHONPATH: /lib}", "PYTHONPATH"),
        ("{SPARK_HOME: /opt/spark}", "SPARK_HOME"),
        ("{INDEX: 'https://me:hunter2@example.com'}", "variable INDEX of .* looks like a credential"),
        ("{TEAM_PASSWORD: hunter2}", "variable TEAM_PASSWORD of .* looks like a credential"),
    ],
)
def test_variables_that_can_not_be_set_are_rejected(tmp_path: Path, variables: str, message: str) -> None:
    text = f"channels: [{ANY}]\ndependencies: [six]\nvariables: {variables}"
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        _ = environment.key
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["pip-repositories", "platforms", "category", "dependency"])
def test_a_key_that_conda_ignores_is_rejected_by_name(tmp_path: Path, key: str) -> None:
    text = f"name: x\nprefix: /x\nchannels: [{ANY}]\ndependencies: [six]\n"
    path = write(tmp_path / "environment.yml", text)
    assert CondaEnvironment.from_file(path).key
    write(path, f"{text}{key}: [x]")
    with pytest.raises(InvalidArgumentError, match=f"has `{key}`, which conda does not know"):
        _ = CondaEnvironment.from_file(path).key


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("-r requirements.txt", "Write the requirements of that file into the section"),
        ("--requirement=requirements.txt", "Write the requirements of that file into the section"),
        ("-c constraints.txt", "Write the versions into the section"),
        ("--extra-index-url https://example.com/simple", "index_conn_id"),
        ("--index-url=https://me:hunter2@example.com/simple", "index_conn_id"),
        ("-f ./wheels", "UV_FIND_LINKS"),
        ("-e ./ours", "Upload a wheel"),
        ("--pre", "Remove it"),
    ],
)
def test_an_option_of_pip_is_rejected_by_name(tmp_path: Path, line: str, advice: str) -> None:
    text = f"channels: [{ANY}]\ndependencies:\n- six\n- pip:\n  - '{line}'"
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text))
    message = f"has the option '{line.replace('me:hunter2', '[*]{3}')}' in its `pip:` section.*{advice}"
    with pytest.raises(InvalidArgumentError, match=message):
        _ = environment.key


@pytest.mark.parametrize("more", ["dependencies: [numpy]", "variables: {A: x, B: y, A: z}"])
def test_a_key_that_is_there_twice_is_rejected(tmp_path: Path, more: str) -> None:
    text = f"channels: [{ANY}]\ndependencies: [six]\n{more}"
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text))
    with pytest.raises(InvalidArgumentError, match=r"has the key `(dependencies|A)` more than once"):
        _ = environment.key


def test_what_conda_env_export_writes_is_built(build: Builder, channel: str, tmp_path: Path) -> None:
    text = f"""
name: tasting
channels:
  - {channel}
  - nodefaults
dependencies:
  - python={VERSION}=h0_0
  - cheese=1.0=py_0
  - pip:
      - tabulate==0.9.0
variables:
  KIND: brie
prefix: /opt/conda/envs/tasting
"""
    path = write(tmp_path / "environment.yml", text)
    _, built = build(environment=CondaEnvironment.from_file(path))
    assert (built.python, built.packages) == (VERSION, {"cheese": "1.0", "tabulate": "0.9.0"})


def test_a_section_that_conda_does_not_know_is_rejected_by_name(tmp_path: Path) -> None:
    text = f"channels: [{ANY}]\ndependencies: [six, 'sel(linux)': gdal]"
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text))
    with pytest.raises(InvalidArgumentError, match=r"has `sel\(linux\):` in its dependencies"):
        _ = environment.key


@pytest.mark.parametrize("text", ["", "- six", "dependencies: six", "{", "dependencies: [{conda: [x]}]"])
def test_a_file_that_is_not_an_environment_yml_is_rejected(tmp_path: Path, text: str) -> None:
    environment = CondaEnvironment.from_file(write(tmp_path / "environment.yml", text), channels=[ANY])
    with pytest.raises(InvalidArgumentError):
        _ = environment.key
