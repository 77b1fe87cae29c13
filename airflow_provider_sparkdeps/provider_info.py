"""What this provider tells Airflow about itself, as plain data: nothing of Airflow is imported here."""

from __future__ import annotations

from typing import Any

_INTEGRATION = "Spark Connect"
_PACKAGE = "airflow_provider_sparkdeps"


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.{name}" for name in names]}]


def _field(label: str, kind: str, description: str, **schema: Any) -> dict[str, Any]:
    # Airflow saves a field that nobody touched as JSON null, and marks one that can't be null as required.
    return {"label": label, "description": description, "schema": {"type": [kind, "null"], **schema}}


def _option(kind: str, default: str, example: str, description: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }


# The form of a connection. The keys of `conn-fields` are the keys of the connection's extra.
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
            "login": "the user that Spark sees",
        },
    },
    "conn-fields": {
        # No default: null means that nobody chose, which is not the same as off.
        "use_tls": _field(
            "Use TLS",
            "boolean",
            "Encrypt the connection to Spark. Certificates need it; a bearer token for another machine "
            "switches it on by itself.",
        ),
        # `multiline`, as a single-line input would join the lines of a pasted PEM text.
        "ca_certificate": _field(
            "CA certificate",
            "string",
            "Certificate of the authority that signed the server's: path of a PEM file on the worker, or the "
            "PEM text. Left empty, the authorities that gRPC knows are trusted.",
            format="multiline",
        ),
        "client_certificate": _field(
            "Client certificate",
            "string",
            "For servers that ask clients for a certificate (mTLS): path of a PEM file on the worker, or the PEM text.",
            format="multiline",
        ),
        "client_private_key": _field(
            "Client key",
            "string",
            "Private key of the client certificate: path of a PEM file on the worker. Prefer it to the PEM "
            "text, which whoever may read the connection can see.",
            format="password",
        ),
        "headers": _field(
            "gRPC headers",
            "object",
            'Headers sent with every request, as a proxy or gateway may want them: {"x-team": "scoring"}.',
            default={},
        ),
        "session_conf": _field(
            "Session configuration",
            "object",
            'Spark configuration of every session: {"spark.sql.shuffle.partitions": "64"}.',
            default={},
        ),
        "ui_url": _field(
            "Spark UI address",
            "string",
            "Where people open the Spark UI of this server, for links from tasks: http://spark.example.com:4040.",
            format="url",
        ),
        "delivery": _field(
            "Delivery of environments",
            "string",
            "How a packed environment reaches the executors: uploaded by the worker (works everywhere), or "
            "read by the cluster from the archive store (nothing then flows through the worker).",
            # Airflow's form can clear a choice (null); a null among the choices would only be a blank row.
            enum=["upload", "reference"],
            values_display={
                "upload": "upload: the worker sends it",
                "reference": "reference: the cluster reads it from the archive store",
            },
            default="upload",
        ),
        "archive_store_uri": _field(
            "Archive store, as the cluster sees it",
            "string",
            "For delivery by reference, where the cluster reaches the archive store by another address than the "
            "workers: hdfs://namenode/sparkdeps, s3a://team-bucket/sparkdeps, https://mirror/sparkdeps. Left empty, it "
            "is the workers' address, presigned where the store can sign.",
        ),
        "presigned_url_expiration": _field(
            "Presigned URLs are good for (seconds)",
            "number",
            "For delivery by reference from an object store: executors that join a session later than that can't "
            "read its environment. 7 days (604800) at most; with temporary credentials, not longer than these.",
            minimum=60,
            maximum=604800,
            default=86400,
        ),
        "request_timeout": _field(
            "Request timeout (seconds)",
            "number",
            "How long connecting to the server, and retrying one call, may take. Queries may run for as long "
            "as they need.",
            # The form knows `minimum` only.
            minimum=0,
            exclusiveMinimum=0,
            default=60,
        ),
    },
}

_CONFIG: dict[str, Any] = {
    "sparkdeps": {
        "description": "Where packed environments are kept, and how long to wait for them.",
        "options": {
            "archive_store": _option(
                "string",
                "{AIRFLOW_HOME}/sparkdeps/archives",
                "s3://team-bucket/sparkdeps",
                "Directory, or URL of any file system that fsspec knows, where packed environments are kept. "
                "All workers must reach it.",
            ),
            "archive_store_conn_id": _option(
                "string",
                "",
                "aws_default",
                "Airflow connection with the credentials for ``archive_store``. Empty: those that the worker "
                "has anyway.",
            ),
            "cache_dir": _option(
                "string",
                "{AIRFLOW_HOME}/sparkdeps/cache",
                "/var/cache/sparkdeps",
                "Local directory where a worker keeps the archives that it fetched from a remote ``archive_store``.",
            ),
            "build_timeout": _option(
                "float",
                "1800",
                "3600",
                "Seconds that building an environment may take, and that a task waits for another's build.",
            ),
            "embedded_startup_timeout": _option(
                "float",
                "120",
                "300",
                "Seconds that an embedded Spark Connect server (a connection whose host is a master such as "
                "``local-cluster[2,1,1024]``) may take to start.",
            ),
        },
    },
}

PROVIDER_INFO: dict[str, Any] = {
    "package-name": "airflow-provider-sparkdeps",
    "name": "Sparkdeps",
    "description": "Every task its own Python dependencies on `Spark Connect "
    "<https://spark.apache.org/docs/latest/spark-connect-overview.html>`__, with accumulators.",
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
