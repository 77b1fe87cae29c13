"""What conda environments accept, and what their keys depend on."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
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


def test_order_whitespace_comments_spelling_and_duplicates_do_not_change_the_key() -> None:
    assert key("pandas >=2,<3", "NumPy", "six=1.17.*") == key(
        "numpy # for pandas", "", "# six", "six =1.17.*", "pandas<3, >= 2", "numpy"
    )
    assert key("six 1.17") == key("six==1.17")
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


@pytest.mark.parametrize("spec", ["python=3.4", "python 3.4.*", "python <3.5", "python==3.4.1", "conda::python=3.4"])
def test_a_spec_for_another_python_is_rejected_with_a_fix(spec: str) -> None:
    with pytest.raises(InvalidArgumentError, match=rf'contradicts Python {MINOR}.*set python="3\.[45]"'):
        CondaEnvironment([spec], channels=[ANY])
    if "<" not in spec:
        CondaEnvironment([spec], channels=[ANY], python="3.4")


@pytest.mark.parametrize(
    "spec", [f"python={MINOR}", "python", "python >=3.8", "python =3.4|>=3.8", "python-dateutil=2"]
)
def test_a_spec_that_allows_the_workers_python_is_accepted(spec: str) -> None:
    assert CondaEnvironment([spec], channels=[ANY]).python_minor == MINOR


def test_creating_an_environment_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom airflow_provider_sparkdeps.environments import CondaEnvironment as C\n"
        "C(['six'], channels=['conda-forge'], pip=['x']).key\n"
        "C.from_lock('nowhere'), C.from_file('nowhere'), C.from_prefix('nowhere'), C.from_name('nowhere')\n"
        "print(sorted({'rattler', 'conda_pack', 'yaml', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
