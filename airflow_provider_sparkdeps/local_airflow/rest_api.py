"""Airflow's REST API, as far as a local Airflow needs it; this process imports no Airflow of its own."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_sparkdeps.exceptions import SparkDepsError

REQUEST_WITHIN = 30.0


@dataclass(frozen=True)
class RestApi:
    """A server and the right to use it.

    :param url: ``http://host:port``.
    :param token: as ``/auth/token`` gives it; empty for the few paths that need none.
    :param check: called when the server can't be reached; raises what explains that better than a closed socket.
    """

    url: str
    token: str
    check: Callable[[], None]

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer's JSON.

        :raises SparkDepsError: if the server refuses, or can't be reached.
        """
        try:
            return self.request(method, path, body)
        except urllib.error.HTTPError as refused:
            text = refused.read().decode(errors="replace")
            raise SparkDepsError(f"Airflow answers {refused.code} to {method} {path}: {text}") from refused
        except OSError as failed:
            self.check()
            raise SparkDepsError(f"Airflow gives no answer to {method} {path}: {failed}") from failed

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """As `call`, but what fails is an ``OSError``."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - loopback
        # A proxy knows nothing of this machine's loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=REQUEST_WITHIN) as response:
            return json.load(response)
