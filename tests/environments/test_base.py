"""Environments as values: what they accept, what their key depends on, and how they are serialized."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment, PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def key(*requirements: str, **options: Any) -> str:
    return VenvEnvironment(requirements=list(requirements), **options).key


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        ([], "at least one package"),
        (["  ", "# nothing"], "at least one package"),
        ("pandas<3", "is not a list. Write requirements="),
        (None, "is not a list. Write requirements="),
        ([42], "which is not a string"),
        (["pandas => 2"], "'pandas => 2' is not a requirement"),
        (["pandas 2"], "'pandas 2' is not a requirement"),
        (["git+https://example.com/x@v1"], "Write its name before the URL: 'my_lib @ "),
        (["requirements.txt"], r"'requirements\.txt' is the name of a file"),
        (["x @ git+file:///opt/x@v1"], "of a repository, that of a checkout"),
        (["-r requirements.txt"], "Options of pip or uv"),
        (["my-lib @ file:///home/me/my_lib"], "Write only its path"),
        (["-e my-lib"], "Only paths can: "),
        (["./my_lib ; python_version is 3"], "is not a path to a project"),
    ],
)
def test_invalid_requirements_are_refused_when_the_environment_is_created(requirements: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        VenvEnvironment(requirements=requirements)


@pytest.mark.parametrize("python", ["3.x", "3", "3.12.1", "2.7", "python3.12", "", " 3.12", 3.12])
def test_an_invalid_python_is_refused_with_a_correct_example(python: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=rf'python="{OWN}"'):
        VenvEnvironment(["six"], python=python)


def test_an_invalid_platform_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="platform="):
        VenvEnvironment(["six"], platform="Linux")


@pytest.mark.parametrize("base_dir", [5, "", "a\0b", "~nobody-here/x"])
def test_an_invalid_base_dir_is_refused(base_dir: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="is not a path"):
        VenvEnvironment(["./my_lib"], base_dir=base_dir)


def test_data_that_is_no_environment_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="is not a kind of environment"):
        Environment.from_dict(None)  # type: ignore[arg-type]


VARIABLES = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "GREETING": 'it\'s "$HOME"\n'}


def test_variables_are_part_of_the_key_and_of_the_data() -> None:
    environments = (
        VenvEnvironment(["six"], env_vars=VARIABLES),
        PexEnvironment(["six"], env_vars=VARIABLES),
        CondaEnvironment(["six"], channels=["conda-forge"], env_vars=VARIABLES),
    )
    for environment in environments:
        assert environment.key != replace(environment, env_vars={}).key
        assert environment.key == replace(environment, env_vars=dict(reversed(VARIABLES.items()))).key
        assert Environment.from_dict(environment.to_dict()).key == environment.key
        assert hash(environment)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (["A=1"], "is not a mapping"),
        ({"A": 1}, "Write names and values as strings"),
        ({1: "A"}, "Write names and values as strings"),
        ({"A": "\0"}, "Write names and values as strings"),
        ({"a-b": "x"}, "a-b, which can't be set"),
        ({"": "x"}, "which can't be set"),
        ({"\u00c4": "x"}, "which can't be set"),
        *(
            ({name: "x"}, f"{name}, which can't be set")
            for name in (
                "PYTHONPATH",
                "PYTHONHASHSEED",
                "PYTHONHOME",
                "PATH",
                "LD_LIBRARY_PATH",
                "SPARK_HOME",
                "PYSPARK_PYTHON",
            )
        ),
        ({"API_TOKEN": "hunter2"}, "API_TOKEN of env_vars looks like a credential"),
        ({"DB_PASSWORD": "hunter2"}, "looks like a credential"),
        ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "looks like a credential"),
        ({"INDEX": "https://me:hunter2@example.com"}, "looks like a credential"),
        *(
            ({"GIVEN": f"use {token}"}, "The variable GIVEN of env_vars looks like a credential")
            for token in (
                f"ghp_hunter2{'a1' * 16}",
                f"github_pat_hunter2{'a1' * 16}",
                f"glpat-hunter2{'a1' * 8}",
                "xoxb-hunter2-12345",
                f"AKIA{'HUNT' * 4}",
                "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2",
            )
        ),
    ],
)
def test_a_variable_that_cannot_be_set_or_is_a_secret_is_refused_at_once(variables: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        VenvEnvironment(["six"], env_vars=variables)
    assert "hunter2" not in str(caught.value)


def test_numbers_of_tokens_are_no_secrets() -> None:
    variables = {"MAX_TOKENS": "100", "TOKENIZERS_PARALLELISM": "false"}
    assert VenvEnvironment(["six"], env_vars=variables).env_vars == variables


def test_an_index_that_is_not_the_id_of_a_connection_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidArgumentError, match="index_conn_id is a URL") as caught:
        VenvEnvironment(["six"], index_conn_id="https://me:hunter2@example.com/simple")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("kind", [VenvEnvironment, CondaEnvironment])
def test_what_is_installed_already_needs_no_index(kind: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="index_conn_id can't be combined with an installed environment"):
        kind.from_prefix("/opt/x", index_conn_id="ours")


def test_order_whitespace_comments_spelling_and_duplicates_do_not_change_the_key() -> None:
    assert key("pandas<3,>=2", "PyArrow", "six") == key(
        "six  # for the old ones", "", "pyarrow", "pandas >= 2, < 3", "# pandas<2", "six"
    )
    assert key("Foo_Bar[B,a]; python_version > '3.8'") == key('foo-bar[a,b] ;python_version>"3.8"')


def test_whatever_changes_the_build_changes_the_key() -> None:
    keys = [
        key("six"),
        key("six==1.17.0"),
        key("six", "tabulate"),
        key("six", bundle_python=False),
        key("six", python="3.9"),
        key("six", platform="linux-aarch64"),
    ]
    assert len(set(keys)) == len(keys)


def test_the_workers_python_is_the_default() -> None:
    assert key("six") == key("six", python=OWN)


def test_equal_specifications_are_equal_values() -> None:
    assert {VenvEnvironment(["six", "tabulate"]), VenvEnvironment(["tabulate", "six"])} == {
        VenvEnvironment(requirements=("tabulate", "six"))
    }
    with pytest.raises(FrozenInstanceError):
        VenvEnvironment(["six"]).requirements = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@example.com/lib.whl",
        "https://hunter2@example.com/lib.whl",
        "git+https://x-token:hunter2@example.com/lib.git@main",
        "https://example.com/lib.whl?X-Amz-Signature=hunter2",
        "https://example.com/lib.whl?sig=hunter2",
        "git+ssh://git:hunter2@example.com/lib.git",
    ],
)
def test_a_credential_in_a_requirement_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InvalidArgumentError, match="contains credentials") as caught:
        VenvEnvironment([f"lib @ {url}"])
    assert "hunter2" not in str(caught.value)


def test_a_credential_in_a_malformed_requirement_is_not_repeated() -> None:
    with pytest.raises(InvalidArgumentError, match="is not a requirement") as caught:
        VenvEnvironment(["lib at https://me:hunter2@example.com/lib.whl"])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["https://example.com/lib-1.0-py3-none-any.whl", "git+ssh://git@example.com/lib.git"])
def test_urls_without_credentials_are_accepted(url: str) -> None:
    assert url in VenvEnvironment([f"lib @ {url}"]).requirements[0]


def test_an_environment_survives_json_and_pickle() -> None:
    environment = VenvEnvironment(["pandas<3", "six"], python="3.9", bundle_python=False)
    assert Environment.from_dict(json.loads(json.dumps(environment.to_dict()))) == environment
    assert pickle.loads(pickle.dumps(environment)) == environment


def test_plain_data_contains_the_python_of_the_process_that_wrote_it() -> None:
    assert VenvEnvironment(["six"]).to_dict()["python"] == OWN


def test_the_key_is_the_same_in_another_process() -> None:
    code = "from airflow_provider_sparkdeps.environments import VenvEnvironment as V; print(V(['six', 'tabulate']).key)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == key("tabulate", "six")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"requirements": ["six"]}, "Known kinds are"),
        ({"kind": "unknown", "requirements": ["six"]}, "Known kinds are"),
        ({"kind": "venv", "packages": ["six"]}, "does not describe a venv"),
    ],
)
def test_data_that_does_not_describe_an_environment_is_refused(data: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Environment.from_dict(data)


def test_conda_environments_refuse_paths_of_projects() -> None:
    with pytest.raises(InvalidArgumentError, match=r"'\./my_lib' is a path, .* or use VenvEnvironment"):
        CondaEnvironment(["six"], channels=["conda-forge"], pip=["./my_lib"])
