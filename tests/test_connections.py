"""Airflow connections as endpoints of Spark servers and as logins of package indexes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.standard.hooks.package_index import PackageIndexHook
from airflow.sdk import Connection
from airflow.sdk.log import redact

from airflow_provider_sparkdeps import connections
from airflow_provider_sparkdeps.connections import endpoint_from_connection, login_from_connection, logins_for
from airflow_provider_sparkdeps.environments import Login, VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

HERE = "https://pypi.example.com/simple"


def connection(**fields: Any) -> Connection:
    extra = fields.pop("extra", None)
    fields = {"conn_id": "spark", "conn_type": "sparkdeps", "host": "spark.example.org", **fields}
    return Connection(**fields, extra=json.dumps(extra) if isinstance(extra, dict) else extra)


def test_each_field_of_the_form_reaches_the_endpoint() -> None:
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


def test_empty_fields_of_the_form_are_ignored() -> None:
    names = ("use_tls", "ca_certificate", "client_certificate", "client_private_key", "headers", "session_conf")
    more = ("ui_url", "delivery", "archive_store_uri", "presigned_url_expiration", "request_timeout")
    untouched = dict.fromkeys((*names, *more))
    assert endpoint_from_connection(connection(extra=untouched)) == endpoint_from_connection(connection())


def test_a_connection_can_be_given_as_a_uri() -> None:
    uri = (
        "sparkdeps://jo:secret@spark.example.org:443/?use_tls=true&request_timeout=5&headers=%7B%22x-a%22%3A%22b%22%7D"
    )
    endpoint = endpoint_from_connection(Connection.from_uri(uri, conn_id="spark"))
    assert (endpoint.tls, endpoint.request_timeout, endpoint.headers) == (True, 5.0, {"x-a": "b"})


def test_a_connection_of_type_spark_connect_works() -> None:
    endpoint = endpoint_from_connection(
        connection(conn_type="spark_connect", host="sc://spark.example.org", port=443, extra={"use_ssl": True, "x": 1})
    )
    assert (endpoint.target, endpoint.tls) == ("spark.example.org:443", True)


@pytest.mark.parametrize(
    "uri",
    [
        "sc://spark.example.org:443/;use_ssl=true;token=5ec7e7%3Dx;user_id=jo",
        "sparkdeps://spark.example.org:443/;use_ssl=true;token=5ec7e7%3Dx;user_id=jo",
        "spark-connect://spark.example.org:443/;token=5ec7e7%3Dx;user_id=jo",
    ],
)
def test_parameters_of_sparks_connection_strings_are_honoured(uri: str) -> None:
    endpoint = endpoint_from_connection(Connection.from_uri(uri, conn_id="spark"))
    assert (endpoint.target, endpoint.secure) == ("spark.example.org:443", True)
    assert (endpoint.token, endpoint.user_id) == ("5ec7e7=x", "jo")
    assert "5ec7e7" not in redact(f"token {endpoint.token}")
    in_the_form = connection(host=uri.replace("sparkdeps", "sc").replace("spark-connect", "sc"), port=None)
    assert endpoint_from_connection(in_the_form) == endpoint


def test_parameters_are_separated_before_they_are_decoded() -> None:
    endpoint = endpoint_from_connection(connection(host="sc://localhost:1/;token=a%3Buser_id=root"))
    assert (endpoint.token, endpoint.user_id) == ("a;user_id=root", None)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("spark://master:7077", "of type 'spark', which is no Spark Connect server"),
        ("http://master:7077", "of type 'http', which is no Spark Connect server"),
        ("sc://h:1/;use_tls=true", "parameter 'use_tls' of the connection string is unknown.*Use use_ssl, token"),
        ("sc://h:1/;session_id=a", "parameter 'session_id'"),
        ("sc://h:1/;token=abc;secret", "a parameter of the connection string is unknown"),
        ("sc://h:1/;use_ssl=perhaps", "'use_ssl' is of type str. Write true or false"),
        ("sc://h:1/;token", "unknown or has no value"),
        ("sparkdeps://h:1/secret", "it has a schema"),
    ],
)
def test_what_a_uri_says_besides_is_refused(uri: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as rejected:
        endpoint_from_connection(Connection.from_uri(uri, conn_id="spark"))
    assert "secret" not in str(rejected.value)


@pytest.mark.parametrize("extra", ["not json", '{"use_tls": true,}'])
def test_an_extra_that_is_no_json_is_refused(extra: str) -> None:
    with pytest.raises(InvalidArgumentError, match="has an extra that is not JSON"):
        endpoint_from_connection(connection(extra=extra))


@pytest.mark.parametrize("read", [endpoint_from_connection, login_from_connection])
def test_an_extra_that_is_no_object_is_refused(read: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"has an extra that is a list\. Write a JSON object"):
        read(connection(extra="[1]"))


def test_a_token_in_the_stores_address_is_masked_in_logs() -> None:
    endpoint = endpoint_from_connection(
        connection(extra={"archive_store_uri": "https://mirror.example.org/a?sig=5ec7e7-of-the-mirror"})
    )
    assert endpoint.archive_store_uri
    assert "5ec7e7" not in redact(f"GET {endpoint.archive_store_uri}")
    assert "5ec7e7" not in repr(endpoint)


def test_a_token_for_another_machine_enables_tls() -> None:
    assert endpoint_from_connection(connection(password="secret")).secure
    assert not endpoint_from_connection(connection(host="localhost", password="secret")).secure


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": ""}, "host is empty"),
        ({"host": "https://spark.example.org"}, "not the address of a Spark Connect server"),
        ({"host": "sc://spark:bad"}, "is not a valid address"),
        ({"host": "sc://:secret@spark:1"}, "not the address of a Spark Connect server"),
        ({"host": "sc://spark:1#secret"}, "not the address of a Spark Connect server"),
        ({"host": "sc://spark:443", "port": 15002}, "two values of port"),
        ({"port": 0}, "port=0|port 0"),
        ({"host": "sc://spark:1/;token=secret", "password": "secret2"}, "two values of token"),
        ({"host": "sc://spark:1/;token=secret;token=secret2"}, "two values of token"),
        ({"host": "sc://spark:1/;user_id=jo", "login": "ann"}, "two values of user_id"),
        ({"host": "sc://spark:1/;use_ssl=true", "extra": {"use_tls": False}}, "two values of tls"),
        (
            {"conn_type": "spark_connect", "extra": {"use_tls": True, "use_ssl": False}},
            "extra 'use_ssl' is another name for 'use_tls'",
        ),
        ({"extra": {"session_conf": {"spark.a": None}}}, "'session_conf' has no value for 'spark.a'"),
        ({"extra": {"use_tsl": True}}, "'use_tsl' is unknown.*use_tls"),
        ({"extra": {"use_tls": "perhaps"}}, "'use_tls' is of type str. Write true or false"),
        ({"extra": {"headers": "team"}}, "'headers' is not an object"),
        ({"extra": {"request_timeout": "soon"}}, "'request_timeout' is of type str. Write a number"),
        ({"extra": {"request_timeout": 0}}, "request_timeout=0"),
        ({"extra": {"request_timeout": "inf"}}, "request_timeout=inf"),
        ({"extra": {"delivery": "mail"}}, "delivery='mail'"),
        (
            {"extra": {"archive_store_uri": "/mnt/team?sig=secret"}},
            "archive_store_uri='/mnt/team'.*Write a scheme and a path",
        ),
        (
            {"extra": {"presigned_url_expiration": 5}},
            r"presigned_url_expiration=5\.0 is out of range.* from 60 to 604800",
        ),
        ({"extra": {"presigned_url_expiration": 604801}}, r"from 60 to 604800 \(7 days"),
        ({"extra": {"presigned_url_expiration": "nan"}}, "presigned_url_expiration=nan"),
        ({"password": "secret", "extra": {"use_tls": False}}, "Enable TLS"),
    ],
)
def test_an_invalid_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as rejected:
        endpoint_from_connection(connection(**fields))
    assert str(rejected.value).startswith("Connection 'spark' is invalid: ")
    assert "secret" not in str(rejected.value)


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    secrets: list[str] = []
    monkeypatch.setattr(connections, "mask_secret", secrets.append)
    return secrets


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": HERE}, HERE),
        ({"host": f"{HERE}/"}, f"{HERE}/"),
        ({"host": "pypi.example.com", "schema": "simple"}, HERE),
        ({"host": "pypi.example.com", "schema": "api/pypi/simple"}, "https://pypi.example.com/api/pypi/simple"),
        ({"host": "pypi.example.com", "schema": "http", "port": 8080}, "http://pypi.example.com:8080"),
        ({"host": "pypi.example.com", "port": 8443, "schema": "simple"}, "https://pypi.example.com:8443/simple"),
        ({"host": "pypi.example.com", "extra": json.dumps({"url": HERE})}, HERE),
    ],
)
def test_the_address_of_an_index_comes_from_its_connection(fields: dict[str, Any], url: str, masked: list[str]) -> None:
    connection = Connection(conn_id="ours", conn_type="http", login="me", password="hunter2", **fields)
    assert login_from_connection(connection) == Login(url, "me", "hunter2")
    assert masked == ["hunter2"]


def test_a_connection_of_the_standard_provider_is_a_login(masked: list[str]) -> None:
    url, kind = "https://pypi.example.com/team/simple", PackageIndexHook.conn_type
    connection = Connection(conn_id="ours", conn_type=kind, host=url, login="me", password="hunter2")
    assert login_from_connection(connection) == Login(url, "me", "hunter2")


def test_credentials_in_the_address_become_the_login(masked: list[str]) -> None:
    host = "https://me:hunter%402@pypi.example.com:8443/simple"
    login = login_from_connection(Connection(conn_id="ours", conn_type="http", host=host))
    assert login == Login("https://pypi.example.com:8443/simple", "me", "hunter@2")
    assert masked == ["hunter@2"]


@pytest.mark.parametrize("host", [None, "", "ftp://x/y", "https://", "http://[::1"])
def test_a_connection_without_an_address_is_rejected(host: str | None, masked: list[str]) -> None:
    with pytest.raises(InvalidArgumentError, match="Connection 'ours' does not contain the address of its index"):
        login_from_connection(Connection(conn_id="ours", conn_type="http", host=host, password="hunter2"))


def test_the_connections_of_an_environment_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps({"conn_type": "http", "host": HERE, "password": "hunter2"}))
    assert logins_for(VenvEnvironment(["six"], index_conn_id="ours")) == {"ours": Login(HERE, "", "hunter2")}
    assert logins_for(VenvEnvironment(["six"])) == {}
