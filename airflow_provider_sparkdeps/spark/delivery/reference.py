"""Delivery by reference: the cluster reads a file from the archive store, and failures are explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives.uris import quote_uri
from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.utils.redaction import redact, secrets_in
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.session import SparkSession

FETCH_FAILED = re.compile(r"Could not fetch \S+ over (?:file|https?|spark): .*(?=\. Run the task again)")
"""What the launcher reports when it could not fetch a payload."""

_REACHABLE = "Set archive_store_uri of the connection to a URI at which the cluster reaches the archive store"
# What Java, Hadoop and Spark report; what it means; what to do. The first match counts.
_CAUSES = (
    (
        r"No FileSystem for scheme|Class \S+ not found|ClassNotFoundException",
        "it has no file system for {scheme}://",
        "Set archive_store_uri of the connection to the URI that the cluster uses (e.g. s3a:// instead of s3://), add "
        "the Hadoop connector to the cluster",
    ),
    (
        r"(?:response code|error):? 40[013]\b|AccessControlException|AccessDenied|Permission denied",
        "access is denied{status}",
        "Give the cluster access to the archive store",
    ),
    (
        r"FileNotFoundException|NoSuchKey|(?:response code|error):? 4(?:04|10)\b",
        "the file does not exist there",
        "Set archive_store_uri of the connection to the directory of [sparkdeps] archive_store",
    ),
    (r"(?:response code|error):? (?:429|5\d\d)\b", "the store is busy{status}", "Run the task again"),
    (r"UnknownHostException", "the cluster could not resolve the host name", _REACHABLE),
    (r"Connection refused|ConnectException", "the connection was refused", _REACHABLE),
    (r"timed out|SocketTimeoutException|NoRouteToHost|unreachable", "the host did not answer", _REACHABLE),
    (
        r"javax\.net\.ssl|SSLHandshakeException|PKIX|CertificateException",
        "TLS failed, or the cluster's Java does not trust the certificate",
        f"Add the store's certificate authority to that Java. {_REACHABLE}",
    ),
)
_SIGNATURE_REJECTED = (
    "the presigned URL was rejected{status}, because it or the credentials that signed it have expired, or because "
    "these credentials have no read permission",
    "Increase presigned_url_expiration of the connection, sign with credentials that last longer, give them read "
    "permission",
)


def add_file(spark: SparkSession, uri: str) -> None:
    """Add a file that the cluster reads itself to a session. Its name is the last part of the path.

    :param uri: a URI that the cluster can read. Its query string appears in no message.
    :raises SessionError: if the cluster could not read it. The message says why, and which setting to change.
    """
    from pyspark.errors import PySparkException

    failure = None
    try:
        spark.sql(f"ADD FILE '{quote_uri(uri)}'")
    except PySparkException as error:
        if not _is_from_server(error):
            raise
        failure = f"The cluster could not read {_explain(error, uri)}"
    if failure:
        # Outside of the handler, because Spark's error shows the whole URI.
        raise SessionError(failure)


@contextmanager
def explain_fetch_errors(uri: str | None) -> Iterator[None]:
    """Explain it if the block fails because an executor could not read what the driver could.

    This happens to executors that join after a presigned URL has expired, or that cannot reach the store.

    :param uri: what `add_file` was given. Without one, errors are passed on.
    :raises SessionError: instead of Spark's error, which shows the whole URI.
    """
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        if uri is None or not _is_fetch_error(error, uri):
            raise
        raise SessionError(f"An executor could not read {_explain(error, uri)}") from None


def raise_if_refused(error: Exception, uri: str) -> None:
    """Raise if a store refused a launcher's request. It would refuse Spark's, too, which would break the session.

    :param error: an error that contains the launcher's message.
    :raises SessionError: if the store answered with an HTTP status between 400 and 499.
    """
    found = FETCH_FAILED.search(str(error))
    if found and re.search(r"error:? 4\d\d\b", found[0], re.IGNORECASE):
        raise SessionError(f"The cluster could not read {_explain(error, uri)}") from None


def _explain(error: Exception, uri: str) -> str:
    found = FETCH_FAILED.search(str(error))
    message = found[0] if found else first_line(error)
    # As Java, curl and wget report it.
    status = re.search(r"(?:response code:|error:?) (\d{3})\b", message, re.IGNORECASE)
    if "?" in uri and status and status[1] in ("400", "401", "403"):
        cause, fix = _SIGNATURE_REJECTED
    else:
        causes = ((cause, fix) for pattern, cause, fix in _CAUSES if re.search(pattern, message))
        cause, fix = next(causes, ("{message}", "Give the cluster access to the archive store"))
    cause = cause.format(
        scheme=uri.partition(":")[0],
        status=f" (HTTP {status[1]})" if status else "",
        message=redact(message, secrets_in(uri)),
    )
    return f"{redact(uri, secrets_in(uri))}: {cause}. {fix}, or set delivery of the connection to upload."


def _is_from_server(error: PySparkException) -> bool:
    """Whether the server tried and failed. Otherwise the server or the session is gone."""
    message = str(error)
    return not any(sign in message for sign in ("INVALID_HANDLE", "SESSION_CHANGED", "RETRIES_EXCEEDED", "StatusCode."))


def _is_fetch_error(error: PySparkException, uri: str) -> bool:
    message = str(error)
    if FETCH_FAILED.search(message):
        return True
    name = uri.partition("?")[0].rpartition("/")[2]
    # Java's network errors do not contain the URI.
    return "Executor.updateDependencies" in message and (name in message or "java.net." in message)
