"""Shell, ini and JSON blocks of the documentation name commands, options and fields that exist."""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import re
import shlex
from importlib import metadata

import pytest
from airflow.sdk import Connection

from airflow_provider_sparkdeps import get_provider_info
from airflow_provider_sparkdeps.cli import main
from airflow_provider_sparkdeps.connections import endpoint_from_connection
from airflow_provider_sparkdeps.spark.embedded import is_embedded_master

from ..support.documents import PAGES, ROOT, Block, blocks

ALL = [*PAGES, ROOT / "CONTRIBUTING.md"]
OPTIONS = set(get_provider_info()["config"]["sparkdeps"]["options"])
# Options of Airflow's own sections that pages name.
AIRFLOWS = {("core", "test_connection")}
LANGUAGES = {"python", "bash", "console", "ini", "json", "text", "mermaid"}


def commands() -> list[tuple[str, str]]:
    found = []
    for page in ALL:
        for block in blocks(page, "bash", "console"):
            lines = block.text.splitlines()
            if block.language == "console":
                lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
            found += [(str(block), line) for line in lines if line]
    return found


def of_language(language: str) -> list[Block]:
    return [block for page in ALL for block in blocks(page, language)]


def test_every_block_says_its_language() -> None:
    assert {block.language for page in ALL for block in blocks(page)} <= LANGUAGES


@pytest.mark.parametrize(("place", "line"), commands())
def test_a_command_of_the_documentation_exists(place: str, line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        arguments = dict(word.split("=", 1) for word in words[2:])
        assert set(arguments) <= {"ARGS"}
        paths = [word for word in arguments.get("ARGS", "").split() if word.startswith("tests/")]
        assert all((ROOT / path).exists() for path in paths)
    elif words[0] == "sparkdeps":
        parses(words[1:])
    elif words[:2] == ["pip", "install"]:
        name, _, extra = words[2].rstrip("]").partition("[")
        assert name == "airflow-provider-sparkdeps"
        assert not extra or extra in (metadata.metadata(name).get_all("Provides-Extra") or ())
    else:
        assert words[0] == "export"
        name, _, value = words[1].partition("=")
        assert name.startswith("AIRFLOW_CONN_")
        is_a_connection(json.loads(value))


def parses(words: list[str]) -> None:
    """Check that `sparkdeps` takes a command's subcommand and options; nothing is run."""
    usage = io.StringIO()
    with contextlib.redirect_stdout(usage), pytest.raises(SystemExit, match="0"):
        main([words[0], "--help"])
    for word in words[1:]:
        assert not word.startswith("-") or word in usage.getvalue()


def is_a_connection(fields: dict[str, object]) -> None:
    extra = json.dumps(fields.pop("extra", {}))
    connection = Connection(conn_id="documented", extra=extra, **fields)  # type: ignore[arg-type]
    if not is_embedded_master(connection.host or ""):
        endpoint_from_connection(connection)


@pytest.mark.parametrize("block", of_language("ini"), ids=str)
def test_an_option_of_the_documentation_is_the_providers(block: Block) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(block.text)
    for section in parser.sections():
        for option in parser[section]:
            assert option in OPTIONS if section == "sparkdeps" else (section, option) in AIRFLOWS


@pytest.mark.parametrize("block", of_language("json"), ids=str)
def test_json_of_the_documentation_is_a_connection_or_its_session_conf(block: Block) -> None:
    data = json.loads(block.text)
    if "conn_type" in data:
        is_a_connection(data)
    else:
        is_a_connection({"conn_type": "sparkdeps", "host": "spark", "extra": {"session_conf": data}})
