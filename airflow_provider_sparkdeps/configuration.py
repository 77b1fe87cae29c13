"""What this deployment of Airflow says in `[sparkdeps]`: where archives are, and how long to wait for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow.sdk import BaseHook, ObjectStoragePath, conf
from airflow.sdk.log import mask_secret

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, Login
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from airflow.sdk import Connection

_SECTION = "sparkdeps"


def archive_store(root: str | None = None) -> ArchiveStore:
    """Return the archive store of this deployment.

    :param root: a directory or URL instead of `[sparkdeps] archive_store`.
    """
    chosen = root or conf.get(_SECTION, "archive_store")
    conn_id = conf.get(_SECTION, "archive_store_conn_id", fallback="") or None
    cache = Path(conf.get(_SECTION, "cache_dir"))
    place: Any = ObjectStoragePath(chosen, conn_id=conn_id) if conn_id else chosen
    return ArchiveStore(place, cache_dir=cache)


def build_timeout(given: float | None = None) -> float:
    """Return the seconds that a build may take: what the operator says, or `[sparkdeps] build_timeout`."""
    return conf.getfloat(_SECTION, "build_timeout") if given is None else given


def embedded_startup_timeout() -> float:
    """Return the seconds that an embedded Spark Connect server may take to start."""
    return conf.getfloat(_SECTION, "embedded_startup_timeout")


def default_deferrable() -> bool:
    """Return whether operators and sensors defer unless told otherwise."""
    return conf.getboolean("operators", "default_deferrable", fallback=False)


def logins_for(environment: Environment) -> dict[str, Login]:
    """Return the logins of the private indexes and channels that an environment names, by connection id.

    :raises InvalidArgumentError: when a connection doesn't say where its index is.
    """
    return {conn_id: login_from_connection(BaseHook.get_connection(conn_id)) for conn_id in environment.conn_ids}


def login_from_connection(connection: Connection) -> Login:
    """Return where a connection's index is, and who we are there; its password is masked in logs from now on.

    The extra `url`, or a host such as "https://pypi.example.com/simple", is the whole address. Else it is put together
    of the host, the port, and the schema: that is "http" or "https" (the default), or the path.

    :raises InvalidArgumentError: when the connection doesn't say where the index is.
    """
    extra = connection.extra_dejson
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
            f"connection {connection.conn_id!r} doesn't say where its index is: write the whole address as host, such"
            " as https://pypi.example.com/simple"
        )
    login = Login(
        url=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        username=connection.login or own[0],
        password=connection.password or own[1],
    )
    for secret in filter(None, (login.password, own[0] if not own[1] else "")):
        mask_secret(secret)
    return login
