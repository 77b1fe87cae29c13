"""Turns Airflow connections into what the levels below need: endpoints of Spark servers, logins of package indexes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.environments import Environment, Login
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.endpoint import DEFAULT_PORT, Endpoint
from airflow_provider_sparkdeps.utils.redaction import secrets_in

if TYPE_CHECKING:
    from airflow.sdk import Connection

CONN_TYPE = "sparkdeps"

# The extras of a connection: the field of an Endpoint that each one sets, and its type.
_EXTRAS: dict[str, tuple[str, type]] = {
    "use_tls": ("tls", bool),
    "ca_certificate": ("ca_certificate", str),
    "client_certificate": ("client_certificate", str),
    # Airflow masks extras whose name contains `private_key`.
    "client_private_key": ("client_key", str),
    "headers": ("headers", dict),
    "session_conf": ("session_conf", dict),
    "ui_url": ("ui_url", str),
    "delivery": ("delivery", str),
    "archive_store_uri": ("archive_store_uri", str),
    "presigned_url_expiration": ("presigned_url_expiration", float),
    "request_timeout": ("request_timeout", float),
}
# The name in connections of type `spark_connect`, which apache-airflow-providers-apache-spark defines.
_ALIASES = {"use_ssl": "use_tls"}
# The types of the same provider, and of a connection string of Spark's in the place of Airflow's URI.
_OTHER_TYPES = ("spark_connect", "sc")
# The parameters of Spark's connection strings: the field of an Endpoint that each one sets, and its type.
_PARAMETERS: dict[str, tuple[str, type]] = {
    "use_ssl": ("tls", bool),
    "token": ("token", str),
    "user_id": ("user_id", str),
}


def endpoint_from_connection(connection: Connection, *, host: str | None = None, port: int | None = None) -> Endpoint:
    """Return the endpoint that an Airflow connection describes. Its secrets are masked in logs from now on.

    :param connection: a connection of type `sparkdeps` or `spark_connect`.
    :param host: replaces the connection's host.
    :param port: replaces the connection's port; 15002 if neither is set.
    :raises InvalidArgumentError: if a field is invalid. The message names the connection and the field, and does not
        contain secrets.
    """
    try:
        _check_type(connection)
        own_host, own_port, parameters = _address(connection, required=host is None)
        given = [("user_id", connection.login), ("token", connection.password)]
        fields = [*_extras(connection).items(), *_endpoint_fields(parameters)]
        return Endpoint(
            host=host or own_host,
            port=DEFAULT_PORT if (found := port or own_port) is None else found,
            **_without_contradictions([*((name, value) for name, value in given if value), *fields]),
        )
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"Connection {connection.conn_id!r} is invalid: {error}") from None


def logins_for(environment: Environment) -> dict[str, Login]:
    """Return the logins of the private indexes and channels that an environment names, by connection id.

    :param environment: the environment that is to be built.
    :raises InvalidArgumentError: if a connection does not contain the address of its index.
    """
    return {conn_id: login_from_connection(BaseHook.get_connection(conn_id)) for conn_id in environment.conn_ids}


def login_from_connection(connection: Connection) -> Login:
    """Return the address and the credentials of a package index. The password is masked in logs from now on.

    The address is the extra `url` or a host such as "https://pypi.example.com/simple". If the host has no scheme, the
    address is made of host, port and schema, where the schema is "http", "https" (the default) or the path.

    :param connection: a connection of any type.
    :raises InvalidArgumentError: if the connection does not contain the address.
    """
    extra = _extra(connection)
    address = str(extra.get("url") or connection.host or "").strip()
    schema = (connection.schema or "").strip("/")
    if address and "://" not in address:
        port = f":{connection.port}" if connection.port else ""
        is_scheme = schema.lower() in ("http", "https")
        path = "" if is_scheme or not schema else f"/{schema}"
        address = f"{schema.lower() if is_scheme else 'https'}://{address}{port}{path}"
    try:
        parts = urlsplit(address)
        own = (unquote(parts.username or ""), unquote(parts.password or ""))
    except ValueError:
        parts, own = urlsplit(""), ("", "")
    if parts.scheme not in ("http", "https", "file") or not (parts.hostname or parts.scheme == "file"):
        raise InvalidArgumentError(
            f"Connection {connection.conn_id!r} does not contain the address of its index. Write the whole address as"
            " its host, for example https://pypi.example.com/simple."
        )
    login = Login(
        url=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        username=connection.login or own[0],
        password=connection.password or own[1],
    )
    for secret in filter(None, (login.password, own[0] if not own[1] else "")):
        mask_secret(secret)
    return login


def _without_contradictions(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields:
        if name in found and found[name] != value:
            raise InvalidArgumentError(
                f"it has two values of {name}, in two of its fields, its extra and its connection string. Remove one."
            )
        found[name] = value
    return found


def _check_type(connection: Connection) -> None:
    if connection.conn_type not in (CONN_TYPE, *_OTHER_TYPES):
        raise InvalidArgumentError(
            f"it is of type {connection.conn_type!r}, which is no Spark Connect server. Use a connection of type "
            f"{CONN_TYPE!r}, or as a URI sc://name:port."
        )


def _address(connection: Connection, *, required: bool) -> tuple[str, int | None, list[str]]:
    """Return host, port and the parameters of a connection string (`sc://host:port/;use_ssl=true`)."""
    host, schema = (connection.host or "").strip(), (connection.schema or "").strip().strip("/")
    # In a URI of Airflow's, parameters are where other connections have their schema.
    if schema and not schema.startswith(";"):
        raise InvalidArgumentError(
            "it has a schema, which a Spark Connect server does not have. Remove it. Parameters of a connection string "
            "begin with a semicolon: sc://name:port/;use_ssl=true."
        )
    if not host and not required:
        return "", None, schema.split(";")
    if not host:
        raise InvalidArgumentError(
            "host is empty. Write the name of the Spark Connect server, or local-cluster[2,1,1024]."
        )
    if "://" not in host:
        return host, connection.port, schema.split(";")
    host, _, own = host.partition("/;")
    try:
        parts = urlsplit(host)
        given_port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(
            f"host is not a valid address: {error}. Write sc://name:port, or only the name."
        ) from None
    if parts.scheme != "sc" or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidArgumentError(
            "host is not the address of a Spark Connect server. Write sc://name:port, or only the name."
        )
    ports = [("port", each) for each in (connection.port, given_port) if each is not None]
    # As Spark does, parameters are separated before they are decoded.
    parameters = [*schema.split(";"), *map(unquote, own.split(";"))]
    return parts.hostname or "", _without_contradictions(ports).get("port"), parameters


def _endpoint_fields(parameters: list[str]) -> list[tuple[str, Any]]:
    """Return the fields of an endpoint that the parameters of a connection string set."""
    fields: list[tuple[str, Any]] = []
    for parameter in filter(None, parameters):
        name, found, value = parameter.partition("=")
        if name not in _PARAMETERS or not value:
            # Without a name, it may be a part of a secret.
            shown = f" {name!r}" if found else ""
            raise InvalidArgumentError(
                f"a parameter{shown} of the connection string is unknown or has no value. Use "
                f"{', '.join(_PARAMETERS)}, and the connection's extra for the rest, for example headers."
            )
        field, kind = _PARAMETERS[name]
        fields.append((field, _convert_extra(name, value, kind)))
    for field, value in fields:
        if field == "token":
            mask_secret(value)
    return fields


def _extra(connection: Connection) -> Mapping[str, Any]:
    try:
        # Not `extra_dejson`, which is empty if this is no JSON.
        extra = json.loads(connection.extra or "{}")
    except ValueError as error:
        raise InvalidArgumentError(
            f"Connection {connection.conn_id!r} has an extra that is not JSON: {error}. Write a JSON object, for "
            'example {"headers": {}}.'
        ) from None
    if not isinstance(extra, Mapping):
        raise InvalidArgumentError(
            f"Connection {connection.conn_id!r} has an extra that is a {type(extra).__name__}. Write a JSON object, "
            'for example {"headers": {}}.'
        )
    return extra


def _extras(connection: Connection) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in _extra(connection).items():
        name = _ALIASES.get(key, key)
        if name not in _EXTRAS:
            if connection.conn_type != "spark_connect":
                raise InvalidArgumentError(f"extra {key!r} is unknown. Remove it, or use one of {', '.join(_EXTRAS)}.")
            continue
        if value is None or value == "":
            continue  # Airflow saves form fields that nobody filled in as null.
        field, kind = _EXTRAS[name]
        converted = _convert_extra(key, value, kind)
        if field in fields and fields[field] != converted:
            raise InvalidArgumentError(f"extra {key!r} is another name for {name!r}, with another value. Remove one.")
        fields[field] = converted
    secrets = (
        fields.get("client_key"),
        *fields.get("headers", {}).values(),
        *secrets_in(fields.get("archive_store_uri")),
    )
    for secret in secrets:
        mask_secret(secret)
    return fields


def _convert_extra(key: str, value: Any, kind: type) -> Any:
    if kind is dict:
        return _convert_mapping(key, value)
    # In a connection that was given as a URI, all extras are strings.
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    if kind is str and isinstance(value, str):
        return value.strip()
    expected = {bool: "true or false", float: "a number", str: "a string"}[kind]
    raise InvalidArgumentError(f"extra {key!r} is of type {type(value).__name__}. Write {expected}.")


def _convert_mapping(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(
            f'extra {key!r} is not an object. Write it as JSON, for example {{"name": "value"}}.'
        )
    if empty := [name for name, entry in value.items() if entry is None]:
        raise InvalidArgumentError(f"extra {key!r} has no value for {empty[0]!r}. Write one, or remove it.")
    # Spark and gRPC take strings. JSON's booleans and numbers are what Spark expects for its own settings.
    return {str(name): entry if isinstance(entry, str) else json.dumps(entry) for name, entry in value.items()}
