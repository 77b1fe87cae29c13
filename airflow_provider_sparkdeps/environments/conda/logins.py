"""How rattler gets the logins of private channels."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.environments.context import Login
from airflow_provider_sparkdeps.exceptions import BuildError

CONDA_TOKEN = "conda-token"  # noqa: S105 - a user name
"""As the login of a connection: its password is a token that stands in the URL, as `/t/<token>/`."""


@contextlib.contextmanager
def access(logins: Sequence[Login]) -> Iterator[Any]:
    """rattler's settings, with the logins in a file that only we can read and that is gone afterwards."""
    import rattler

    hosts: dict[str, Any] = {}
    for login in logins:
        host = urlsplit(login.url).hostname
        if host is None:
            raise BuildError(f"{login.url!r} is not the URL of a channel. Put it into the connection's host.")
        if login.username == CONDA_TOKEN:
            secret: dict[str, Any] = {"CondaToken": login.password}
        elif login.username:
            secret = {"BasicHTTP": {"username": login.username, "password": login.password}}
        else:
            secret = {"BearerToken": login.password}
        if hosts.setdefault(host, secret) != secret:
            raise BuildError(
                f"There are two different logins for {host}, and rattler uses one per host. Use one connection."
            )
    config = rattler.Config.from_toml('tls-root-certs = "system"')
    if not hosts:
        yield config
        return
    # Made with mode 0600.
    with tempfile.NamedTemporaryFile("w", prefix="sparkdeps-", suffix=".json") as file:
        json.dump(hosts, file)
        file.flush()
        config.set("authentication-override-file", file.name)
        yield config
