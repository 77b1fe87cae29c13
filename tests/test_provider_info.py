"""The provider's metadata: what Airflow reads from it, and the connection form and options that it shows."""

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

# Everything that Airflow imports by name: modules, a class, a decorator.
IMPORTED_NAMES = [
    *(
        module
        for kind in ("hooks", "operators", "sensors", "triggers")
        for entry in PROVIDER_INFO[kind]
        for module in entry["python-modules"]
    ),
    CONNECTION_TYPE["hook-class-name"],
    *(decorator["class-name"] for decorator in PROVIDER_INFO["task-decorators"]),
]

# Commands of the `airflow` CLI. All run in one process, because each start of Airflow takes seconds.
COMMANDS = {
    "get": "providers get airflow-provider-sparkdeps --output json",
    "hooks": "providers hooks --output json",
    "behaviours": "providers behaviours --output json",
    "widgets": "providers widgets --output json",
    "triggers": "providers triggers --output json",
    "config": "config list --section sparkdeps",
    "archive_store": "config get-value sparkdeps archive_store",
}

WITHOUT_AIRFLOW = """
import json, sys
import airflow_provider_sparkdeps

info = airflow_provider_sparkdeps.get_provider_info()
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"airflow", "pyspark", "grpc"})
json.dump({"info": info, "heavy": heavy}, sys.stdout)
"""

IN_AIRFLOW = """
import contextlib, io, json, pkgutil, sys

# First, to see which modules the API server imports to show the connection form.
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
values = [{option: conf.get("sparkdeps", option) for option in options} for conf in (core_conf, task_conf)]

errors = {}
for name in json.loads(sys.argv[3]):
    try:
        pkgutil.resolve_name(name)
    except Exception as error:
        errors[name] = repr(error)

result = {"forms": forms, "imported": imported, "printed": printed, "options": values, "errors": errors}
print(json.dumps(result), file=sys.stderr)
"""


def run_python(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=inherited | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """The provider info in a process without Airflow (Airflow adds entries to it), and the imported packages."""
    done = run_python(WITHOUT_AIRFLOW)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("airflow")


@pytest.fixture(scope="module")
def shown(home: Path) -> dict[str, Any]:
    """What Airflow shows of this provider: connection forms, output of commands, options."""
    done = run_python(
        IN_AIRFLOW,
        json.dumps(COMMANDS),
        json.dumps(list(OPTIONS)),
        json.dumps(IMPORTED_NAMES),
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__LOGGING__LOGGING_LEVEL="CRITICAL",
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def form(shown: dict[str, Any]) -> dict[str, Any]:
    forms = [form for form in shown["forms"] if form["connection_type"] == "sparkdeps"]
    assert len(forms) == 1
    return dict(forms[0])


def printed(shown: dict[str, Any], command: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(shown["printed"][command])
    return rows


def airflow_schema(name: str) -> dict[str, Any]:
    # Without importing Airflow, which would create a home directory for this process.
    file = Path(str(distribution("apache-airflow-core").locate_file(f"airflow/{name}")))
    schema: dict[str, Any] = json.loads(file.read_text())
    return schema


def test_airflow_accepts_the_provider_info(loaded: dict[str, Any]) -> None:
    jsonschema.validate(loaded["info"], airflow_schema("provider_info.schema.json"))


def test_it_also_matches_the_stricter_schema_of_airflows_own_providers(loaded: dict[str, Any]) -> None:
    # Only this schema describes connection fields. It requires two keys that are for Airflow's own releases.
    release = {"state": "ready", "source-date-epoch": 0}
    jsonschema.validate(loaded["info"] | release, airflow_schema("provider.yaml.schema.json"))


def test_it_reports_the_version_of_the_package(loaded: dict[str, Any]) -> None:
    assert loaded["info"]["versions"] == [airflow_provider_sparkdeps.__version__]


def test_reading_it_imports_neither_airflow_nor_spark_nor_grpc(loaded: dict[str, Any]) -> None:
    assert loaded["heavy"] == []


@pytest.mark.parametrize("name", IMPORTED_NAMES)
def test_airflow_can_import_every_name_in_it(shown: dict[str, Any], name: str) -> None:
    assert name not in shown["errors"], shown["errors"][name]


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_has_a_label_and_a_description(name: str) -> None:
    assert FIELDS[name]["label"]
    assert FIELDS[name]["description"].endswith(".")


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_is_optional(name: str) -> None:
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
def test_an_invalid_value_is_rejected_by_the_schema_of_its_field(name: str, value: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, FIELDS[name]["schema"])


def test_the_private_key_is_a_password_field() -> None:
    assert FIELDS["client_private_key"]["schema"]["format"] == "password"


def test_certificates_can_be_pasted_with_several_lines() -> None:
    for name in ("ca_certificate", "client_certificate"):
        assert FIELDS[name]["schema"]["format"] == "multiline"


def test_the_form_shows_the_fields_with_their_defaults(form: dict[str, Any]) -> None:
    assert form["hook_name"] == "Spark Connect (sparkdeps)"
    assert form["hook_class_name"] == CONNECTION_TYPE["hook-class-name"]
    assert list(form["extra_fields"]) == list(FIELDS)
    assert form["extra_fields"]["delivery"]["value"] == "upload"
    assert form["extra_fields"]["delivery"]["schema"]["title"] == "Delivery"
    assert form["extra_fields"]["request_timeout"]["value"] == 60
    assert form["extra_fields"]["presigned_url_expiration"]["value"] == 86400
    assert form["extra_fields"]["archive_store_uri"]["value"] is None
    assert form["extra_fields"]["use_tls"]["value"] is None


def test_the_form_relabels_the_standard_fields(form: dict[str, Any]) -> None:
    fields = form["standard_fields"]
    assert {name: field["title"] for name, field in fields.items() if field and field["title"]} == {
        "host": "Spark Connect host, or an embedded master",
        "login": "User id",
        "password": "Bearer token",
    }
    assert fields["port"]["placeholder"] == "15002"
    assert fields["url_schema"]["hidden"]


def test_the_form_is_shown_without_importing_the_hook(shown: dict[str, Any]) -> None:
    assert shown["imported"] == ["airflow_provider_sparkdeps.provider_info"]


def test_the_command_line_lists_the_provider(shown: dict[str, Any]) -> None:
    assert printed(shown, "get") == [
        {
            "Provider": "airflow-provider-sparkdeps",
            "Version": airflow_provider_sparkdeps.__version__,
        }
    ]


def test_the_command_line_lists_the_hook(shown: dict[str, Any]) -> None:
    assert [row for row in printed(shown, "hooks") if row["connection_type"] == "sparkdeps"] == [
        {
            "connection_type": "sparkdeps",
            "class": "airflow_provider_sparkdeps.hooks.spark_connect.SparkConnectHook",
            "conn_id_attribute_name": "spark_conn_id",
            "package_name": "airflow-provider-sparkdeps",
            "hook_name": "Spark Connect (sparkdeps)",
        }
    ]


def test_the_command_line_lists_the_fields(shown: dict[str, Any]) -> None:
    assert {"field_behaviours": "sparkdeps"} in printed(shown, "behaviours")
    fields = [row for row in printed(shown, "widgets") if row["package_name"] == "airflow-provider-sparkdeps"]
    assert {row["connection_parameter_name"] for row in fields} == {f"extra__sparkdeps__{name}" for name in FIELDS}


def test_the_command_line_lists_the_trigger(shown: dict[str, Any]) -> None:
    modules = {
        row["class"] for row in printed(shown, "triggers") if row["package_name"] == "airflow-provider-sparkdeps"
    }
    assert modules == {"airflow_provider_sparkdeps.triggers.environment"}


def test_the_command_line_shows_the_options(shown: dict[str, Any], home: Path) -> None:
    output = shown["printed"]["config"]
    assert "[sparkdeps]" in output
    assert all(f"{option} =" in output for option in OPTIONS)
    assert shown["printed"]["archive_store"].strip() == str(home / "sparkdeps" / "archives")


def test_services_and_tasks_read_the_same_defaults(shown: dict[str, Any], home: Path) -> None:
    in_services, in_tasks = shown["options"]
    assert in_services == in_tasks
    assert in_tasks == {
        "archive_store": str(home / "sparkdeps" / "archives"),
        "archive_store_conn_id": "",
        "cache_dir": str(home / "sparkdeps" / "cache"),
        "build_timeout": "1800",
        "embedded_startup_timeout": "120",
    }
