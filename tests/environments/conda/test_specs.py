"""What conda environments accept, and what their keys depend on."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.conda_channel import MINOR

ANY = "https://example.com/channel"
SHA = "sha256:" + "ab" * 32
SIX = f"{ANY}/noarch/six-1.17.0-pyhe01879c_1.conda"


def key(*dependencies: str, **arguments: Any) -> str:
    return CondaEnvironment(dependencies, **{"channels": [ANY], **arguments}).key


def test_order_whitespace_comments_and_duplicates_do_not_change_the_key() -> None:
    assert key("pandas  >=2,<3", "numpy", "six=1.17.*") == key(
        "numpy # for pandas", "", "# six", " six=1.17.*", "pandas >=2,<3", "numpy"
    )
    assert key("six", pip=["Foo_Bar>1", "x"]) == key("six", pip=["x", "foo-bar >1  # y"])
    assert key("six", channels=[ANY + "/"]) == key("six")


def test_whatever_changes_the_build_changes_the_key() -> None:
    keys = [
        key("six"),
        key("six=1.17"),
        key("six==1.17"),
        key("six", "numpy"),
        key("six", channels=[ANY, "conda-forge"]),
        key("six", channels=["conda-forge", ANY]),
        key("six", pip=["tabulate"]),
        key("six", pip=["tabulate"], index_conn_id="pypi"),
        key("six", pip=["tabulate"], index_conn_id="other"),
        key("six", python="3.9"),
        key("six", platform="linux-aarch64"),
        CondaEnvironment(explicit=[SIX]).key,
        CondaEnvironment(explicit=[f"{SIX}#{SHA}"]).key,
    ]
    assert len(set(keys)) == len(keys)


def test_connections_of_channels_do_not_change_the_key_but_are_kept() -> None:
    environment = CondaEnvironment(["six"], channels=[ANY], channel_conn_ids=["conda"], index_conn_id="pypi", pip=["x"])
    assert environment.key == key("six", pip=["x"], index_conn_id="pypi")
    assert environment.conn_ids == ("conda", "pypi")
    assert Environment.from_dict(environment.to_dict()).conn_ids == ("conda", "pypi")


def test_it_survives_json_and_pickle() -> None:
    environment = CondaEnvironment(["six=1.17"], channels=["conda-forge"], pip=["x"], python=MINOR)
    copy = Environment.from_dict(json.loads(json.dumps(environment.to_dict())))
    assert (copy, copy.key) == (environment, environment.key)
    assert pickle.loads(pickle.dumps(environment)) == environment
    assert {environment, copy} == {environment}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"dependencies": ["six"], "explicit": [SIX]}, "exactly one of"),
        ({"dependencies": ["six"]}, "channels is empty"),
        ({"dependencies": "six", "channels": [ANY]}, "is not a list"),
        ({"dependencies": [6], "channels": [ANY]}, "not a string"),
        ({"dependencies": ["-c conda-forge"], "channels": [ANY]}, "not a conda spec"),
        ({"dependencies": ["./six.conda"], "channels": [ANY]}, "not a conda spec"),
        ({"dependencies": ["six"], "channels": ANY}, "is not a list"),
        ({"dependencies": ["six"], "channels": ["./channel"]}, "is not a channel"),
        ({"dependencies": ["six"], "channels": [ANY], "pip": ["a b"]}, "is not a requirement"),
        ({"explicit": ["six=1.17"]}, "is not the URL of a conda package"),
        ({"explicit": [f"{SIX}#nonsense"]}, "is not the URL of a conda package"),
    ],
)
def test_invalid_arguments_are_rejected_when_the_environment_is_created(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        CondaEnvironment(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": ["https://me:hunter2@example.com/channel"]},
        {"channels": ["https://example.com/t/hunter2/channel"]},
        {"channels": ["https://hunter2@example.com/channel"]},
        {"dependencies": ["https://example.com/t/hunter2/channel::six"]},
        {"dependencies": [], "explicit": ["https://example.com/t/hunter2/noarch/six-1.17.0-py_0.conda"]},
    ],
)
def test_credentials_are_rejected_and_not_repeated(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"contains credentials.*channel_conn_ids") as caught:
        CondaEnvironment(**{"dependencies": ["six"], "channels": [ANY], **arguments})
    assert "hunter2" not in str(caught.value)


CONDA_SPECS = [
    "six=1.17.0=py_0",
    "six=*=*mkl",
    "six * *mkl",
    "six==1.10.*",
    "six=23.*",
    "six 1.17",
    "six >=1.*",
    "six[version='>=1,<2']",
    "six[version=1.17, build=py_0]",
    "conda-forge::six",
    "conda-forge/linux-64::six>=1",
    f"{ANY}::six=1",
    "/opt/channel::six",
    "six 1.1|1.2",
    "six ~=1.1",
    "six >1.17.0a1,!=1.18.*",
]


@pytest.mark.parametrize("spec", CONDA_SPECS)
def test_what_conda_reads_is_a_spec(spec: str) -> None:
    assert CondaEnvironment([f" {spec}  # why"], channels=[ANY]).dependencies == (spec,)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("six => 2", "unable to parse version spec"),
        ("foo bar baz qux", "its build would be 'baz qux'"),
        ("six=1.17;python>3", "its build would be ';python>3'"),
        ("six = 1.17 = py_0", "its build would be '= py_0'"),
        ("six=1.0=py_0=x", "its build would be 'py_0=x'"),
        ("six >1.17.*", "`>` and `.*` exclude each other"),
        ("requests[security]>=2", "invalid package name"),
        ("six*", "looks like a glob"),
        ("six[colour=red]", "invalid bracket key: colour"),
        (SIX, "it is a URL; pass URLs of packages as explicit"),
    ],
)
def test_what_conda_would_not_read_or_read_as_something_else_is_rejected(spec: str, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{re.escape(spec)}' is not a conda spec: .*{re.escape(reason)}"):
        CondaEnvironment([spec], channels=[ANY])


def test_keys_do_not_depend_on_rattler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pixi.lock").write_text("version: 6")
    dependencies = [*CONDA_SPECS, f"python={MINOR}.*=*_cpython"]
    lock = CondaEnvironment.from_lock(tmp_path / "pixi.lock")
    keys = key(*dependencies), lock.key
    monkeypatch.setitem(sys.modules, "rattler", None)
    assert (key(*dependencies), lock.key) == keys
    assert key("six => 2", "python <3.4")  # the build rejects them


@pytest.mark.parametrize("channel", ["local", "https://example.com/$TEAM/channel"])
def test_a_channel_that_is_not_the_same_on_all_machines_is_rejected(channel: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"'{re.escape(channel)}' is not a channel"):
        CondaEnvironment(["six"], channels=[channel])


@pytest.mark.parametrize(
    ("spec", "allowed"),
    [
        ("python >=3.9,<3.11", "3.9, 3.10"),
        ("python=3.10", "3.10"),
        ("python==3.10.4", "3.10"),
        ("Python 3.10.*", "3.10"),
        ("python=3.10.4=h0_0", "3.10"),
        ("conda-forge::python[version='>3.9.99,<3.10.50']", "3.10"),
        ("python 3.9.*|3.13.*", "3.9, 3.13"),
        ("python >=3.10,<3.11.0a0", "3.10"),
    ],
)
def test_a_spec_for_another_python_is_rejected_with_the_versions_that_it_allows(spec: str, allowed: str) -> None:
    last = allowed.split(", ")[-1]
    message = f'contradicts Python 3.12 .*It allows {allowed}: set python="{last}" and run the task on a worker'
    with pytest.raises(InvalidArgumentError, match=message):
        CondaEnvironment([spec], channels=[ANY], python="3.12")
    assert CondaEnvironment([spec], channels=[ANY], python=last).python_minor == last


def test_all_specs_of_python_count() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'python <3\.12', 'python >=3\.11' contradicts .*It allows 3\.11:"):
        CondaEnvironment(["python >=3.11", "python <3.12"], channels=[ANY], python="3.10")


def test_a_spec_that_no_python_meets_is_rejected_without_impossible_advice() -> None:
    with pytest.raises(InvalidArgumentError, match=r"No Python from 3\.9 to 3\.14 meets it\. Correct") as caught:
        CondaEnvironment(["python <3.9"], channels=[ANY])
    assert "set python=" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        f"python={MINOR}",
        f"python={MINOR}.1",
        f"python={MINOR}.*=*_cpython",
        "python",
        "python >=3.8",
        "python =3.4|>=3.8",
        "python-dateutil=2",
        "python[build=h0_0]",
        f"python={MINOR}.0rc1",
    ],
)
def test_a_spec_that_allows_the_workers_python_is_accepted(spec: str) -> None:
    assert CondaEnvironment([spec], channels=[ANY]).python_minor == MINOR


def test_creating_an_environment_imports_nothing_heavy() -> None:
    code = (
        f"MINOR = {MINOR!r}\n"
        "import sys\nfrom airflow_provider_sparkdeps.environments import CondaEnvironment as C\n"
        "specs = ['six', 'gdal=3.10', 'numpy =2.1.*', 'pandas >=2, <3', 'pyarrow==18.1', f'python={MINOR}']\n"
        "C(specs, channels=['conda-forge'], pip=['x']).key\n"
        "C.from_lock('nowhere'), C.from_file('nowhere'), C.from_prefix('nowhere'), C.from_name('nowhere')\n"
        "print(sorted({'rattler', 'conda_pack', 'yaml', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
