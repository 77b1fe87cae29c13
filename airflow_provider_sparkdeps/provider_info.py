"""The metadata of the provider for Airflow: hooks, operators, the connection form and configuration options."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Spark Connect"
_PACKAGE = "airflow_provider_sparkdeps"


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.{name}" for name in names]}]


def _field(label: str, kind: str, description: str, **schema: Any) -> dict[str, Any]:
    # Airflow saves an untouched field as JSON null, and marks a field that can't be null as required.
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}


def _option(kind: str, default: str, example: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }


# The connection form. The keys of `conn-fields` are the keys of the connection's extra.
_CONNECTION_TYPE: dict[str, Any] = {
    "connection-type": "sparkdeps",
    "hook-class-name": f"{_PACKAGE}.hooks.spark_connect.SparkConnectHook",
    "hook-name": "Spark Connect (sparkdeps)",
    "ui-field-behaviour": {
        "hidden-fields": ["schema"],
        "relabeling": {
            "host": "Spark Connect host, or an embedded master",
            "login": "User id",
            "password": "Bearer token",
        },
        "placeholders": {
            "host": "spark.example.com, or local-cluster[2,1,1024]",
            "port": "15002",
            "login": "the user name in Spark",
        },
    },
    "conn-fields": {
        # No default: null means "not set", which differs from false.
        "use_tls": _field(
            "Use TLS",
            "boolean",
            "Encrypt the connection to Spark. Certificates need it. It is the default if a bearer token is sent to "
            "another machine.",
        ),
        # `multiline`: a single-line input would join the lines of pasted PEM data.
        "ca_certificate": _field(
            "CA certificate",
            "string",
            "Certificate of the authority that signed the server's certificate: path of a PEM file on the worker, or "
            "PEM data. If empty, gRPC's default authorities are trusted.",
            format="multiline",
        ),
        "client_certificate": _field(
            "Client certificate",
            "string",
            "For servers that require a client certificate (mTLS): path of a PEM file on the worker, or PEM data.",
            format="multiline",
        ),
        "client_private_key": _field(
            "Client key",
            "string",
            "Private key of the client certificate: path of a PEM file on the worker, or PEM data. A file is safer, "
            "because everyone who can read the connection can read PEM data.",
            format="password",
        ),
        "headers": _field(
            "gRPC headers",
            "object",
            'Headers of every request, for a proxy or gateway: {"x-team": "scoring"}.',
            default={},
        ),
        "session_conf": _field(
            "Session configuration",
            "object",
            'Spark configuration of every session: {"spark.sql.shuffle.partitions": "64"}.',
            default={},
        ),
        "ui_url": _field(
            "Spark UI URL",
            "string",
            "URL of this server's Spark UI: http://spark.example.com:4040. No link uses it yet.",
            format="url",
        ),
        "delivery": _field(
            "Delivery",
            "string",
            "How a packed environment reaches the executors: uploaded by the worker (works everywhere), or "
            "read by the cluster from the archive store (no data then passes through the worker).",
            # The form can clear the choice (null). A null in `enum` would only add a blank row.
            enum=["upload", "reference"],
            values_display={
                "upload": "upload: the worker uploads it",
                "reference": "reference: the cluster reads it from the archive store",
            },
            default="upload",
        ),
        "archive_store_uri": _field(
            "Archive store URI for the cluster",
            "string",
            "For delivery by reference, if the cluster and the workers use different URIs for the archive store: "
            "hdfs://namenode/sparkdeps, s3a://team-bucket/sparkdeps, https://mirror/sparkdeps. If empty, the "
            "workers' URI is used, presigned if the store can sign.",
        ),
        "presigned_url_expiration": _field(
            "Presigned URL expiration (seconds)",
            "number",
            "For delivery by reference from an object store. Executors that start after it has expired can't read "
            "the session's environment. At most 7 days (604800), and the lifetime of temporary credentials.",
            minimum=60,
            maximum=604800,
            default=86400,
        ),
        "request_timeout": _field(
            "Request timeout (seconds)",
            "number",
            "Time limit for connecting to the server and for retrying a call. Queries have no time limit.",
            # The form evaluates `minimum` only.
            minimum=0,
            exclusiveMinimum=0,
            default=60,
        ),
    },
}

_CONFIG: dict[str, Any] = {
    "sparkdeps": {
        "description": "Where packed environments are stored, and how long to wait for them.",
        "options": {
            "archive_store": _option(
                "string",
                "{AIRFLOW_HOME}/sparkdeps/archives",
                "s3://team-bucket/sparkdeps",
                "Where packed environments are stored: a directory, or a URL that fsspec supports. All workers must "
                "be able to access it.",
            ),
            "archive_store_conn_id": _option(
                "string",
                "",
                "aws_default",
                "Airflow connection with the credentials for ``archive_store``. If empty, the worker's own credentials "
                "are used.",
            ),
            "cache_dir": _option(
                "string",
                "{AIRFLOW_HOME}/sparkdeps/cache",
                "/var/cache/sparkdeps",
                "Local directory where a worker caches archives from a remote ``archive_store``.",
            ),
            "build_timeout": _option(
                "float",
                "1800",
                "3600",
                "Maximum seconds to build an environment, or to wait for another process that is building it.",
            ),
            "embedded_startup_timeout": _option(
                "float",
                "120",
                "300",
                "Maximum seconds for an embedded Spark Connect server (a connection whose host is a Spark master, e.g. "
                "``local-cluster[2,1,1024]``) to start.",
            ),
        },
    },
}

PROVIDER_INFO: dict[str, Any] = {
    "package-name": "airflow-provider-sparkdeps",
    "name": "Sparkdeps",
    "description": "Python dependencies per task on `Spark Connect "
    "<https://spark.apache.org/docs/latest/spark-connect-overview.html>`__, accumulators and broadcast variables.",
    "integrations": [
        {
            "integration-name": _INTEGRATION,
            "external-doc-url": "https://spark.apache.org/docs/latest/spark-connect-overview.html",
            "tags": ["apache"],
        }
    ],
    "hooks": _modules("hooks.spark_connect"),
    "operators": _modules("operators.environment", "operators.session", "operators.spark_connect"),
    "sensors": _modules("sensors.environment"),
    "triggers": _modules("triggers.environment"),
    "connection-types": [_CONNECTION_TYPE],
    "task-decorators": [
        {"name": "spark_connect", "class-name": f"{_PACKAGE}.decorators.spark_connect.spark_connect_task"}
    ],
    "config": _CONFIG,
}
