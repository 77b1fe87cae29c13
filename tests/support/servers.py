"""Servers that a test may break."""

from __future__ import annotations

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint


class OwnServer(EmbeddedServer):
    """A server that a test may break."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host=self.host, port=self.port, request_timeout=10)
