from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import airflow_provider_sparkdeps
from airflow_provider_sparkdeps.provider_info import PROVIDER_INFO

CONNECTION_TYPE = PROVIDER_INFO["connection-types"][0]
FIELDS = CONNECTION_TYPE["conn-fields"]
OPTIONS = PROVIDER_INFO["config"]["sparkdeps"]["options"]

# All that Airflow imports by name: modules, a class, a decorator.
NAMED = [
    *(
        module
        for kind in ("hooks", "operators", "sensors", "triggers")
        for entry in PROVIDER_INFO[kind]
        for module in entry["python-modules"]
    ),
    CONNECTION_TYPE["hook-class-name"],
    *(decorator["class-name"] for decorator in PROVIDER_INFO["task-decorators"]),
]

# Commands of the `airflow` CLI, all run in one process, as each start of Airflow takes seconds.
COMMANDS = {
    "get": "providers get airflow-provider-sparkdeps --output json",
    "hooks": "providers hooks --output json",
    "behaviours": "providers behaviours --output json",
    "widgets": "providers widgets --output json",
    "triggers": "providers triggers --output json",
    "config": "config list --section sparkdeps",
    "archive_store": "config get-value sparkdeps archive_store",
}

ALONE = """
import json, sys
import airflow_provider_sparkdeps

info = airflow_provider_sparkdeps.get_provider_info()
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"airflow", "pyspark", "grpc"})
json.dump({"info": info, "heavy": heavy}, sys.stdout)
"""

IN_AIRFLOW = """
import contextlib, io, json, pkgutil, sys

# First of all: what the api-server shows as the form of a connection, and what it imports for that.
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

forms = [meta.model_dump(mode="json", by_alias=True) for meta in HookMetaService.hook_meta_data()]
imported = sorted(name for name in sys.modules if name.startswith("airflow_provider_sparkdeps."))

from airflow.cli.cli_parser import get_parser

printed = {}
for name, command in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        arguments = get_parser().parse_args(command.split())
        arguments.func(arguments)
    printed[name] = out.getvalue()

from airflow.configuration import conf as core_conf
from airflow.sdk import conf as task_conf

options = json.loads(sys.argv[2])
settings = [{option: conf.get("sparkdeps", option) for option in options} for conf in (core_conf, task_conf)]

faults = {}
for name in json.loads(sys.argv[3]):
    try:
        pkgutil.resolve_name(name)
    except Exception as error:
        faults[name] = repr(error)

seen = {"forms": forms, "imported": imported, "printed": printed, "settings": settings, "faults": faults}
print(json.dumps(seen), file=sys.stderr)
"""


def run_python(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=clean | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The provider info as a process without Airflow has it (Airflow writes into the one that it loaded)."""
    done = run_python(ALONE)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def airflow(home: Path) -> dict[str, Any]:
    """What Airflow made of this provider: form, command line, settings."""
    done = run_python(
        IN_AIRFLOW,
        json.dumps(COMMANDS),
        json.dumps(list(OPTIONS)),
        json.dumps(NAMED),
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="CRITICAL",
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return seen


@pytest.fixture(scope="module")
def form(airflow: dict[str, Any]) -> dict[str, Any]:
    forms = [form for form in airflow["forms"] if form["connection_type"] == "sparkdeps"]
    assert len(forms) == 1
    return dict(forms[0])


def printed(airflow: dict[str, Any], command: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(airflow["printed"][command])
    return rows


def airflow_schema(name: str) -> dict[str, Any]:
    # Found without importing Airflow, which would make itself a home in this process.
    file = Path(str(distribution("apache-airflow-core").locate_file(f"airflow/{name}")))
    schema: dict[str, Any] = json.loads(file.read_text())
    return schema


def test_airflow_accepts_the_provider_info(alone: dict[str, Any]) -> None:
    jsonschema.validate(alone["info"], airflow_schema("provider_info.schema.json"))


def test_it_meets_the_stricter_schema_of_the_providers_of_airflow_too(alone: dict[str, Any]) -> None:
    # Only that one knows the fields of a connection. Two of its keys belong to Airflow's own releases.
    theirs = {"state": "ready", "source-date-epoch": 0}
    jsonschema.validate(alone["info"] | theirs, airflow_schema("provider.yaml.schema.json"))


def test_the_version_is_that_of_the_package(alone: dict[str, Any]) -> None:
    assert alone["info"]["versions"] == [airflow_provider_sparkdeps.__version__]


def test_asking_for_it_imports_no_airflow_spark_or_grpc(alone: dict[str, Any]) -> None:
    assert alone["heavy"] == []


@pytest.mark.parametrize("name", NAMED)
def test_airflow_can_import_all_that_it_names(airflow: dict[str, Any], name: str) -> None:
    assert name not in airflow["faults"], airflow["faults"][name]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_says_in_words_what_it_is_for(name: str) -> None:
    assert FIELDS[name]["label"]
    assert FIELDS[name]["description"].endswith(".")


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_may_be_left_untouched(name: str) -> None:
    schema = FIELDS[name]["schema"]
    assert "null" in schema["type"]
    jsonschema.validate(schema.get("default"), schema)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_timeout", 0),
        ("request_timeout", -1),
        ("presigned_url_expiration", 59),
        ("presigned_url_expiration", 1e6),
        ("delivery", "by pigeon"),
        ("headers", "x-team=a"),
    ],
)
def test_a_wrong_value_does_not_meet_its_schema(name: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, FIELDS[name]["schema"])


def test_the_private_key_is_typed_unseen() -> None:
    assert FIELDS["client_private_key"]["schema"]["format"] == "password"


def test_a_pem_text_can_be_pasted_with_its_lines() -> None:
    for name in ("ca_certificate", "client_certificate"):
        assert FIELDS[name]["schema"]["format"] == "multiline"


def test_the_form_shows_our_fields(form: dict[str, Any]) -> None:
    assert form["hook_name"] == "Spark Connect (sparkdeps)"
    assert form["hook_class_name"] == CONNECTION_TYPE["hook-class-name"]
    assert list(form["extra_fields"]) == list(FIELDS)
    assert form["extra_fields"]["delivery"]["value"] == "upload"
    assert form["extra_fields"]["delivery"]["schema"]["title"] == "Delivery of environments"
    assert form["extra_fields"]["request_timeout"]["value"] == 60
    assert form["extra_fields"]["presigned_url_expiration"]["value"] == 86400
    assert form["extra_fields"]["archive_store_uri"]["value"] is None
    assert form["extra_fields"]["use_tls"]["value"] is None


def test_the_form_says_what_the_standard_fields_mean(form: dict[str, Any]) -> None:
    fields = form["standard_fields"]
    assert {name: field["title"] for name, field in fields.items() if field and field["title"]} == {
        "host": "Spark Connect host, or an embedded master",
        "login": "User id",
        "password": "Bearer token",
    }
    assert fields["port"]["placeholder"] == "15002"
    assert fields["url_schema"]["hidden"]


def test_the_form_needs_no_import_of_the_hook(airflow: dict[str, Any]) -> None:
    assert airflow["imported"] == ["airflow_provider_sparkdeps.provider_info"]


def test_the_command_line_knows_the_provider(airflow: dict[str, Any]) -> None:
    assert printed(airflow, "get") == [
        {
            "Provider": "airflow-provider-sparkdeps",
            "Version": airflow_provider_sparkdeps.__version__,
        }
    ]


def test_the_command_line_knows_the_hook(airflow: dict[str, Any]) -> None:
    assert [row for row in printed(airflow, "hooks") if row["connection_type"] == "sparkdeps"] == [
        {
            "connection_type": "sparkdeps",
            "class": "airflow_provider_sparkdeps.hooks.spark_connect.SparkConnectHook",
            "conn_id_attribute_name": "spark_conn_id",
            "package_name": "airflow-provider-sparkdeps",
            "hook_name": "Spark Connect (sparkdeps)",
        }
    ]


def test_the_command_line_knows_the_fields(airflow: dict[str, Any]) -> None:
    assert {"field_behaviours": "sparkdeps"} in printed(airflow, "behaviours")
    ours = [row for row in printed(airflow, "widgets") if row["package_name"] == "airflow-provider-sparkdeps"]
    assert {row["connection_parameter_name"] for row in ours} == {f"extra__sparkdeps__{name}" for name in FIELDS}


def test_the_command_line_knows_the_trigger(airflow: dict[str, Any]) -> None:
    modules = {
        row["class"] for row in printed(airflow, "triggers") if row["package_name"] == "airflow-provider-sparkdeps"
    }
    assert modules == {"airflow_provider_sparkdeps.triggers.environment"}


def test_the_command_line_shows_the_settings(airflow: dict[str, Any], home: Path) -> None:
    shown = airflow["printed"]["config"]
    assert "[sparkdeps]" in shown
    assert all(f"{option} =" in shown for option in OPTIONS)
    assert airflow["printed"]["archive_store"].strip() == str(home / "sparkdeps" / "archives")


def test_servers_and_tasks_read_the_same_defaults(airflow: dict[str, Any], home: Path) -> None:
    of_the_server, of_a_task = airflow["settings"]
    assert of_the_server == of_a_task
    assert of_a_task == {
        "archive_store": str(home / "sparkdeps" / "archives"),
        "archive_store_conn_id": "",
        "cache_dir": str(home / "sparkdeps" / "cache"),
        "build_timeout": "1800",
        "embedded_startup_timeout": "120",
    }
