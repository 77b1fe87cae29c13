"""The hook: sessions, and the Test button."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from ..test_connections import connection

HookFor = Callable[..., SparkConnectHook]


@pytest.fixture
def hook_for(monkeypatch: pytest.MonkeyPatch) -> HookFor:
    """Return a function that makes a hook whose connection is in an environment variable."""

    def make(**fields: Any) -> SparkConnectHook:
        made = connection(**fields)
        monkeypatch.setenv("AIRFLOW_CONN_SPARK", made.get_uri())
        return SparkConnectHook("spark")

    return make


def test_the_test_button_reports_success(hook_for: HookFor, server: EmbeddedServer) -> None:
    works, sentence = hook_for(host=server.host, port=server.port).test_connection()
    assert works
    assert sentence.startswith("Connected to Spark Connect 4.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "127.0.0.1", "port": 1}, "no server is listening there"),
        ({"host": "no-such-host.invalid"}, "could not be resolved"),
        ({"host": "127.0.0.1", "port": 1, "extra": {"delivery": "mail"}}, "delivery"),
    ],
)
def test_the_test_button_reports_what_is_wrong(hook_for: HookFor, fields: dict[str, Any], message: str) -> None:
    works, sentence = hook_for(**{"extra": {"request_timeout": 5}, **fields}).test_connection()
    assert not works
    assert message in sentence


def test_the_test_button_says_that_a_token_is_wrong(hook_for: HookFor, token_server: tuple[str, int, str]) -> None:
    host, port, token = token_server
    assert hook_for(host=host, port=port, password=token).test_connection()[0]
    works, sentence = hook_for(host=host, port=port, password="wrong").test_connection()
    assert (works, "rejected the bearer token" in sentence) == (False, True)


def test_a_session_is_open_inside_its_block_only(hook_for: HookFor, server: EmbeddedServer) -> None:
    hook = hook_for(host=server.host, port=server.port)
    with hook.connect(tag="a.b") as session:
        spark = session.spark
        assert spark.range(3).count() == 3
        assert session.endpoint.target == f"localhost:{server.port}"
    assert spark.is_stopped


def test_a_master_as_host_starts_a_server_for_the_session_and_stops_it(
    hook_for: HookFor,
) -> None:
    hook = hook_for(host="local-cluster[1,1,1024]")
    with hook.connect() as session:
        assert session.spark.range(3).count() == 3
        port = session.endpoint.port
    works, _ = hook_for(host="127.0.0.1", port=port).test_connection()
    assert not works
