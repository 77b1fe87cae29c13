"""URIs of payloads for executors: presigned URLs, quoting, and validation of a store's URI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

EXPIRATION = 24 * 3600.0
"""Default lifetime of a presigned URL, in seconds."""
EXPIRATION_BOUNDS = (60.0, 7 * 24 * 3600.0)
"""Shortest useful lifetime of a presigned URL, and the longest that S3 and Google Cloud Storage sign; in seconds."""

# Characters of a path, a query and an authority that are not escaped. Quotes, backslashes, spaces, `$` and braces are
# escaped, because they have a meaning in SQL, too.
_IN_PATH = "/:@!~*()+,=&;-._"
_IN_QUERY = _IN_PATH + "?"
_IN_AUTHORITY = _IN_PATH + "[]"
_AUTHORITY = re.compile(r"[\w.~@:,%\[\]-]*", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WEB = ("http", "https")


def presign_or_uri(path: StorePath, *, expiration: float) -> str:
    """Return a presigned URL of a file if its file system signs URLs, else its plain URI.

    :param expiration: seconds until a presigned URL expires.
    :raises ArchiveError: if the file system signs URLs, but not with the credentials that it has.
    """
    if isinstance(path, Path):
        return path.as_uri()
    uri = str(path)
    # Airflow's `ObjectStoragePath` includes its connection id.
    if conn_id := getattr(path, "conn_id", None):
        uri = uri.replace(f"://{conn_id}@", "://", 1)
    try:
        return str(path.fs.sign(path.path, expiration=int(expiration)))
    except NotImplementedError:
        scheme, _, rest = uri.partition("://")
        return uri if scheme in _WEB else f"{scheme}://{quote(rest, safe=_IN_PATH)}"
    except Exception as error:
        raise ArchiveError(
            f"Could not presign {redact(uri)}: {redact(str(error)) or type(error).__name__}. Set [sparkdeps]"
            " archive_store_conn_id to a connection whose credentials can sign URLs, or set archive_store_uri of the"
            " Spark connection to the URI at which the cluster reads the store."
        ) from error


def uri_under(root: str, *names: str) -> str:
    """Return the URI of a file below a root. A query of the root is kept at the end.

    :param root: a URI that `validate_store_uri` accepts.
    :param names: of the folders and the file.
    """
    parts = urlsplit(root.strip())
    path = "/".join([parts.path.rstrip("/"), *map(quote, names)])
    return quote_uri(f"{parts.scheme}://{parts.netloc}{path}{_query(parts.query)}")


def quote_uri(uri: str) -> str:
    """Return a URI in which all characters that are invalid, or have a meaning in SQL, are escaped."""
    parts = urlsplit(uri)
    netloc, path = _escape(parts.netloc, _IN_AUTHORITY), _escape(parts.path, _IN_PATH)
    return f"{parts.scheme}://{netloc}{path}{_query(_escape(parts.query, _IN_QUERY))}"


def validate_store_uri(root: str, name: str) -> None:
    """Check that a cluster can read a store at a URI.

    :param root: the URI, e.g. `hdfs://namenode/team/archives`.
    :param name: of the argument, for messages. They contain no credentials.
    :raises InvalidArgumentError: if it is not an absolute URI, or has parts that Spark does not support.
    """
    shown = repr(redact(root.partition("?")[0]))
    if not _SCHEME.match(root):
        raise InvalidArgumentError(
            f"{name}={shown} is not a URI. Write a scheme and a path, e.g. s3a://bucket/sparkdeps or"
            " file:///mnt/team/sparkdeps."
        )
    try:
        parts = urlsplit(root)
        web = parts.scheme in _WEB
        _ = parts.port if web else None
    except ValueError:
        raise InvalidArgumentError(f"{name}={shown} is not a valid URL. Write e.g. https://host/sparkdeps.") from None
    if parts.scheme == "local":
        raise InvalidArgumentError(
            f"{name}={shown} is not supported: Spark does not distribute files from local://. Write file:// and a path"
            " that the Spark driver can read."
        )
    if not _AUTHORITY.fullmatch(parts.netloc) or (web and not parts.hostname):
        raise InvalidArgumentError(
            f"{name}={shown} does not have a valid host. Write e.g. {parts.scheme}://host/sparkdeps."
        )
    if parts.password or (web and "@" in parts.netloc):
        raise InvalidArgumentError(
            f"{name}={shown} contains a user name or a password, which Spark does not send. Remove it, and configure"
            " the cluster's own access."
        )
    if parts.fragment or (parts.query and not web):
        raise InvalidArgumentError(
            f"{name}={shown} contains # or ?, which would end the path. Write %23 instead of # and %3F instead of ?."
        )


def _query(query: str) -> str:
    return f"?{query}" if query else ""


def _escape(part: str, safe: str) -> str:
    # Escaped characters stay as they are. Any other percent sign is literal.
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", part), safe=safe + "%")
