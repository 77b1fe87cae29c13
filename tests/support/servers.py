"""Servers that a test may stop or kill."""

from __future__ import annotations

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint


class OwnServer(EmbeddedServer):
    """A server for one test, which may stop or kill it."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host=self.host, port=self.port, request_timeout=10)
