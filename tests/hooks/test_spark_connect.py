"""What an Airflow connection means: the endpoint, the sentence of the test button, a session."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk.log import redact

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.hooks.spark_connect import SparkConnectHook, endpoint_from_connection
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer


def connection(**fields: Any) -> Connection:
    extra = fields.pop("extra", None)
    fields = {"conn_id": "spark", "conn_type": "sparkdeps", "host": "spark.example.org", **fields}
    return Connection(**fields, extra=json.dumps(extra) if isinstance(extra, dict) else extra)


@pytest.fixture
def hook_for(monkeypatch: pytest.MonkeyPatch):
    """Give a hook whose connection is in the environment, where Airflow looks first."""

    def make(**fields: Any) -> SparkConnectHook:
        made = connection(**fields)
        monkeypatch.setenv("AIRFLOW_CONN_SPARK", made.get_uri())
        return SparkConnectHook("spark")

    return make


def test_each_field_of_the_form_has_its_place() -> None:
    endpoint = endpoint_from_connection(
        connection(
            port=443,
            login="jo",
            password="secret",
            extra={
                "use_tls": True,
                "ca_certificate": "/etc/ca.pem",
                "client_certificate": "/etc/me.pem",
                "client_private_key": "/etc/me.key",
                "headers": {"x-team": "scoring", "x-level": 3},
                "session_conf": {"spark.sql.shuffle.partitions": 8, "spark.sql.ansi.enabled": False},
                "ui_url": "http://spark.example.org:4040",
                "delivery": "reference",
                "archive_store_uri": "s3a://team/archives",
                "presigned_url_expiration": 600,
                "request_timeout": 5,
            },
        )
    )
    assert (endpoint.target, endpoint.user_id, endpoint.token) == ("spark.example.org:443", "jo", "secret")
    assert endpoint.secure
    assert endpoint.ca_certificate == "/etc/ca.pem"
    assert (endpoint.client_certificate, endpoint.client_key) == ("/etc/me.pem", "/etc/me.key")
    assert endpoint.headers == {"x-team": "scoring", "x-level": "3"}
    assert endpoint.session_conf == {"spark.sql.shuffle.partitions": "8", "spark.sql.ansi.enabled": "false"}
    assert (endpoint.delivery, endpoint.request_timeout) == ("reference", 5.0)
    assert (endpoint.archive_store_uri, endpoint.presigned_url_expiration) == ("s3a://team/archives", 600.0)
    assert endpoint.ui_url == "http://spark.example.org:4040"


def test_fields_that_nobody_touched_are_as_if_absent() -> None:
    names = ("use_tls", "ca_certificate", "client_certificate", "client_private_key", "headers", "session_conf")
    more = ("ui_url", "delivery", "archive_store_uri", "presigned_url_expiration", "request_timeout")
    untouched = dict.fromkeys((*names, *more))
    assert endpoint_from_connection(connection(extra=untouched)) == endpoint_from_connection(connection())


def test_a_connection_given_as_a_uri_has_texts_only() -> None:
    uri = (
        "sparkdeps://jo:secret@spark.example.org:443/?use_tls=true&request_timeout=5&headers=%7B%22x-a%22%3A%22b%22%7D"
    )
    endpoint = endpoint_from_connection(Connection.from_uri(uri, conn_id="spark"))
    assert (endpoint.tls, endpoint.request_timeout, endpoint.headers) == (True, 5.0, {"x-a": "b"})


def test_a_connection_of_sparks_own_provider_is_taken() -> None:
    endpoint = endpoint_from_connection(
        connection(conn_type="spark_connect", host="sc://spark.example.org", port=443, extra={"use_ssl": True, "x": 1})
    )
    assert (endpoint.target, endpoint.tls) == ("spark.example.org:443", True)


def test_a_token_in_the_stores_address_is_masked_in_logs() -> None:
    endpoint = endpoint_from_connection(
        connection(extra={"archive_store_uri": "https://mirror.example.org/a?sig=5ec7e7-of-the-mirror"})
    )
    assert endpoint.archive_store_uri
    assert "5ec7e7" not in redact(f"GET {endpoint.archive_store_uri}")
    assert "5ec7e7" not in repr(endpoint)


def test_a_token_for_another_machine_switches_tls_on() -> None:
    assert endpoint_from_connection(connection(password="secret")).secure
    assert not endpoint_from_connection(connection(host="localhost", password="secret")).secure


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"host": ""}, "host is empty"),
        ({"host": "https://spark.example.org"}, "address of another kind"),
        ({"host": "sc://spark:bad"}, "can't be read as an address"),
        ({"extra": {"use_tsl": True}}, "'use_tsl' is unknown.*use_tls"),
        ({"extra": {"use_tls": "perhaps"}}, "'use_tls' is str: write true or false"),
        ({"extra": {"headers": "team"}}, "'headers' is no object"),
        ({"extra": {"request_timeout": "soon"}}, "'request_timeout' is str: write a number"),
        ({"extra": {"request_timeout": 0}}, "request_timeout is 0"),
        ({"extra": {"delivery": "mail"}}, "delivery 'mail' is unknown"),
        (
            {"extra": {"archive_store_uri": "/mnt/team?sig=secret"}},
            "archive_store_uri='/mnt/team'.*Write a scheme and a path",
        ),
        ({"extra": {"presigned_url_expiration": 5}}, r"presigned_url_expiration is 5\.0; write .* from 60 to 604800"),
        ({"extra": {"presigned_url_expiration": 604801}}, r"from 60 to 604800 \(7 days"),
        ({"extra": {"presigned_url_expiration": "nan"}}, "presigned_url_expiration is nan"),
        ({"password": "secret", "extra": {"use_tls": False}}, "Enable TLS"),
    ],
)
def test_a_field_that_can_not_be_meant_is_named(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidArgumentError, match=fault) as refused:
        endpoint_from_connection(connection(**fields))
    assert str(refused.value).startswith("connection 'spark': ")
    assert "secret" not in str(refused.value)


def test_the_test_button_says_what_works(hook_for, server: EmbeddedServer) -> None:
    works, sentence = hook_for(host=server.host, port=server.port).test_connection()
    assert works
    assert sentence.startswith("Spark Connect 4.")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "127.0.0.1", "port": 1}, "no server is listening there"),
        ({"host": "no-such-host.invalid"}, "can't be resolved"),
        ({"host": "127.0.0.1", "port": 1, "extra": {"delivery": "mail"}}, "delivery"),
    ],
)
def test_the_test_button_says_what_is_wrong(hook_for, fields: dict[str, Any], words: str) -> None:
    works, sentence = hook_for(**{"extra": {"request_timeout": 5}, **fields}).test_connection()
    assert not works
    assert words in sentence


def test_the_test_button_says_that_a_token_is_wrong(hook_for, token_server: tuple[str, int, str]) -> None:
    host, port, token = token_server
    assert hook_for(host=host, port=port, password=token).test_connection()[0]
    works, sentence = hook_for(host=host, port=port, password="wrong").test_connection()
    assert (works, "rejected the bearer token" in sentence) == (False, True)


def test_a_session_is_open_inside_its_block_only(hook_for, server: EmbeddedServer) -> None:
    hook = hook_for(host=server.host, port=server.port)
    with hook.connect(tag="a.b") as session:
        spark = session.spark
        assert spark.range(3).count() == 3
        assert session.endpoint.target == f"localhost:{server.port}"
    assert spark.is_stopped


def test_a_master_as_host_starts_a_server_for_the_session_and_stops_it(hook_for) -> None:
    hook = hook_for(host="local-cluster[1,1,1024]")
    with hook.connect() as session:
        assert session.spark.range(3).count() == 3
        port = session.endpoint.port
    works, _ = hook_for(host="127.0.0.1", port=port).test_connection()
    assert not works
