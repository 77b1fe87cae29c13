"""Addresses at which others than the worker read payloads, and what of them must not be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

EXPIRATION = 24 * 3600.0
"""Seconds for which a presigned URL is good, unless told otherwise."""
EXPIRATION_BOUNDS = (60.0, 7 * 24 * 3600.0)
"""The shortest that is of use, and the longest that S3 and Google Cloud Storage sign."""

# What may stand as it is in the path and in the query of a URI. Quotes, backslashes, blanks, `$` and braces may not:
# they would also mean something in SQL.
_IN_PATH = "/:@!~*()+,=&;-._"
_IN_QUERY = _IN_PATH + "?"
_IN_AUTHORITY = _IN_PATH + "[]"
_AUTHORITY = re.compile(r"[\w.~@:,%\[\]-]*", re.ASCII)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_WEB = ("http", "https")
# Of a query, the values that are secrets in themselves; Spark may repeat a part only.
_SECRET_NAME = re.compile(r"token|secret|passw|credential|signature|sig$|key", re.IGNORECASE)
_QUERY = re.compile(r"([a-z][a-z0-9+.-]*:/{1,3}[^\s?'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)


def address(path: StorePath, *, expiration: float) -> str:
    """Return a presigned URL of a file where its file system signs, else its plain URI.

    :param expiration: seconds for which a presigned URL is good.
    :raises ArchiveError: the file system could sign, but has no credentials that do.
    """
    if isinstance(path, Path):
        return path.as_uri()
    plain = str(path)
    # Airflow's `ObjectStoragePath` shows its connection there.
    if conn_id := getattr(path, "conn_id", None):
        plain = plain.replace(f"://{conn_id}@", "://", 1)
    try:
        return str(path.fs.sign(path.path, expiration=int(expiration)))
    except NotImplementedError:
        scheme, _, rest = plain.partition("://")
        return plain if scheme in _WEB else f"{scheme}://{quote(rest, safe=_IN_PATH)}"
    except Exception as error:
        raise ArchiveError(
            f"no presigned URL can be had for {redact(plain)} ({redact(str(error)) or type(error).__name__}): give "
            "[sparkdeps] archive_store_conn_id a connection with credentials that sign, or name in the Spark "
            "connection's archive_store_uri where the cluster reads the store"
        ) from error


def uri_under(root: str, *names: str) -> str:
    """Return the address of what is below a root, in front of the root's query if it has one.

    :param root: a URI, as `validate_store_uri` wants it.
    :param names: of folders and, last, the file.
    """
    parts = urlsplit(root.strip())
    path = "/".join([parts.path.rstrip("/"), *map(quote, names)])
    return quote_uri(f"{parts.scheme}://{parts.netloc}{path}{_query(parts.query)}")


def quote_uri(text: str) -> str:
    """Return an address with all escaped that a URI can't hold as it is, or that has a meaning in SQL."""
    parts = urlsplit(text)
    netloc, path = _escape(parts.netloc, _IN_AUTHORITY), _escape(parts.path, _IN_PATH)
    return f"{parts.scheme}://{netloc}{path}{_query(_escape(parts.query, _IN_QUERY))}"


def validate_store_uri(root: str, name: str) -> None:
    """Refuse what can't be the root of a store as a cluster sees it.

    :param root: such as `hdfs://namenode/team/archives`.
    :param name: of the field, for the message, which shows no credentials.
    :raises InvalidArgumentError: it is no absolute URI, or has parts that Spark does not take.
    """
    shown = repr(redact(root.partition("?")[0]))
    if not _SCHEME.match(root):
        raise InvalidArgumentError(
            f"{name} {shown} is no address: write scheme and path, such as s3a://bucket/sparkdeps, or "
            "file:///mnt/team/sparkdeps"
        )
    try:
        parts = urlsplit(root)
        web = parts.scheme in _WEB
        _ = parts.port if web else None
    except ValueError:
        raise InvalidArgumentError(
            f"{name} {shown} can't be read as an address: write such as https://host/sparkdeps"
        ) from None
    if parts.scheme == "local":
        raise InvalidArgumentError(
            f"{name} {shown}: Spark ships no file of local://: write file:// and a path that its driver reads"
        )
    if not _AUTHORITY.fullmatch(parts.netloc) or (web and not parts.hostname):
        raise InvalidArgumentError(
            f"{name} {shown} names no host that can be meant: write such as {parts.scheme}://host/sparkdeps"
        )
    if parts.password or (web and "@" in parts.netloc):
        raise InvalidArgumentError(
            f"{name} {shown} holds a user or a password, which Spark doesn't send: take it out, and give the cluster "
            "access of its own"
        )
    if parts.fragment or (parts.query and not web):
        raise InvalidArgumentError(f"{name} {shown}: write # as %23 and ? as %3F in a path")


def secrets_in(uri: str | None) -> list[str]:
    """Return the parts of an address that give access to what is there, such as the signature of a presigned URL."""
    query = urlsplit(uri or "").query
    pairs = [pair.partition("=") for pair in query.split("&")]
    values = [value for name, _, value in pairs if value and _SECRET_NAME.search(name)]
    return [query, *dict.fromkeys([*values, *map(unquote, values)])] if query else []


def without_secrets(text: str) -> str:
    """Return the text with `***` for the queries of all addresses in it."""
    return _QUERY.sub(r"\1?***", text)


def _query(text: str) -> str:
    return f"?{text}" if text else ""


def _escape(text: str, safe: str) -> str:
    # What is escaped already stays so; any other percent sign is meant as such.
    return quote(re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", text), safe=safe + "%")
