"""Delivery by reference: the cluster reads a payload itself, and if it can't, a sentence says why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives.uris import quote_uri, without_secrets
from airflow_provider_sparkdeps.exceptions import SessionError
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.session import SparkSession

FETCH_FAILED = " was not had "
"""In what the launcher says when it could not get a payload."""

_ELSEWHERE = "name in the connection's archive_store_uri an address of the archive store that the cluster reaches"
# The words of Java, Hadoop and Spark, and what they mean here: the cause, and what to do. The first match counts.
_CAUSES = (
    (
        r"No FileSystem for scheme|Class \S+ not found|ClassNotFoundException",
        "it has no file system for {scheme}://",
        "write the address as the cluster knows it (such as s3a:// for s3://) in the connection's archive_store_uri, "
        "or add the Hadoop connector to the cluster",
    ),
    (
        r"(?:response code|error):? 40[013]\b|AccessControlException|AccessDenied|Permission denied",
        "access is forbidden{status}",
        "give the cluster access to the archive store",
    ),
    (
        r"FileNotFoundException|NoSuchKey|(?:response code|error):? 4(?:04|10)\b",
        "nothing is there",
        "let the connection's archive_store_uri lead to the same directory as [sparkdeps] archive_store",
    ),
    (r"(?:response code|error):? (?:429|5\d\d)\b", "the store can't answer now{status}", "run the task again"),
    (r"UnknownHostException", "the cluster can't resolve the host's name", _ELSEWHERE),
    (r"Connection refused|ConnectException", "the connection is refused there", _ELSEWHERE),
    (r"timed out|SocketTimeoutException|NoRouteToHost|unreachable", "there is no answer", _ELSEWHERE),
    (
        r"javax\.net\.ssl|SSLHandshakeException|PKIX|CertificateException",
        "TLS fails, or the cluster's Java does not trust the certificate",
        f"give that Java the store's authority, or {_ELSEWHERE}",
    ),
)
_SIGNED = (
    "the presigned URL is refused{status}: it has expired, the credentials that signed it have ended, or they may not "
    "read there",
    "raise the connection's presigned_url_expiration, sign with credentials that last longer, or give them the right "
    "to read",
)


def add_file(spark: SparkSession, uri: str) -> None:
    """Have the cluster fetch a file into a session, under the last name of its path.

    :param uri: any address that the cluster reads; a query string is not shown anywhere by us.
    :raises SessionError: it can't be read; the message says why, and which setting to change.
    """
    from pyspark.errors import PySparkException

    failure = None
    try:
        spark.sql(f"ADD FILE '{quote_uri(uri)}'")
    except PySparkException as error:
        if not _is_of_the_server(error):
            raise
        failure = f"the cluster can't read {_sentence(error, uri)}"
    if failure:
        # Not while the other is handled, which would go with this one, and shows the address.
        raise SessionError(failure)


@contextmanager
def explain_fetch_errors(uri: str | None) -> Iterator[None]:
    """Say in a sentence that an executor can't read what the driver could, when a block fails by that.

    It happens to executors that join when a presigned URL has expired, or that don't reach the store.

    :param uri: what `add_file` was given; nothing happens without.
    :raises SessionError: instead of Spark's error, which shows the address.
    """
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        if uri is None or not _is_of_a_late_fetch(error, uri):
            raise
        raise SessionError(f"an executor can't read {_sentence(error, uri)}") from None


def raise_if_refused(error: Exception, uri: str) -> None:
    """Raise if a store refused a launcher; asked by Spark itself, it would refuse again, and spoil the session by that.

    :param error: what the launcher said is in it.
    :raises SessionError: the store answered that the address, or who asks there, is wrong.
    """
    if re.search(rf"{FETCH_FAILED}.*error:? 4\d\d\b", str(error), re.IGNORECASE):
        raise SessionError(f"the cluster can't read {_sentence(error, uri)}") from None


def _sentence(error: Exception, uri: str) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if by_launcher := re.search(rf"\S+{FETCH_FAILED}.*", str(error)):
        said = by_launcher[0]
    scheme, query = uri.partition(":")[0], "?" in uri
    # As Java says it, and as curl and wget do.
    status = re.search(r"(?:response code:|error:?) (\d{3})\b", said, re.IGNORECASE)
    fill = {"scheme": scheme, "status": f" (HTTP {status[1]})" if status else ""}
    if query and status and status[1] in ("400", "401", "403"):
        cause, mend = _SIGNED
    else:
        found = ((cause, mend) for signs, cause, mend in _CAUSES if re.search(signs, said))
        cause, mend = next(found, ("{said}", "give it access to the archive store"))
    why = cause.format(**fill, said=without_secrets(redact(said)))
    return f"{without_secrets(redact(uri))}: {why}: {mend}, or set the connection's delivery to upload"


def _is_of_the_server(error: PySparkException) -> bool:
    """Whether the server tried and failed; else it is gone, or the session is."""
    text = str(error)
    return not any(sign in text for sign in ("INVALID_HANDLE", "SESSION_CHANGED", "RETRIES_EXCEEDED", "StatusCode."))


def _is_of_a_late_fetch(error: PySparkException, uri: str) -> bool:
    text = str(error)
    if FETCH_FAILED in text:
        return True
    name = uri.partition("?")[0].rpartition("/")[2]
    # Java's network errors don't name the address.
    return "Executor.updateDependencies" in text and (name in text or "java.net." in text)
