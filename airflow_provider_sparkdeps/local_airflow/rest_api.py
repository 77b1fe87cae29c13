"""A client of the REST API of a local Airflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from airflow_provider_sparkdeps.exceptions import SparkDepsError


class RestApi(httpx.Client):
    """An HTTP client of one API server.

    :param url: ``http://host:port``.
    :param check: called if the server does not answer; may raise an error with a better explanation.
    """

    def __init__(self, url: str, check: Callable[[], None]) -> None:
        # A proxy can't reach this machine's loopback address. The server may close an idle connection at any time.
        super().__init__(base_url=url, timeout=60, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self.check = check

    def log_in(self, username: str, password: str) -> None:
        """Authenticate all later requests as this user."""
        token = self.call("POST", "/auth/token", {"username": username, "password": password})["access_token"]
        self.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of the response.

        :raises SparkDepsError: if the server does not answer or rejects the request.
        """
        try:
            return self.request(method, path, json=body).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            raise SparkDepsError(
                f"Airflow rejected {method} {path} ({error.response.status_code}): {error.response.text}"
            ) from error
        except httpx.TransportError as error:
            self.check()
            raise SparkDepsError(
                f"Airflow's API server did not answer {method} {path}: {error}. See api-server.log in Airflow's home."
            ) from error
