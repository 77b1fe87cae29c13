"""URIs of payloads: presigned URLs, quoting for Spark, and validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.archives.uris import quote_uri, validate_store_uri
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError

from ..support.manifests import ARCHIVE

KEY, NAME = ARCHIVE.key, ARCHIVE.payload
SIGNED = (
    "https://team.s3.amazonaws.com/a/env-1.payload?X-Amz-Credential=AKIA%2Fus&X-Amz-Expires=60&X-Amz-Signature=5ec7e7"
)


pytestmark = pytest.mark.filterwarnings("ignore:UPath 'fakesigned' filesystem")


class FakeObjectStore(MemoryFileSystem):
    """A fake of a file system that signs URLs, as s3fs does, with files in memory."""

    protocol = "fakesigned"
    error: Exception | None = None

    def sign(self, path: str, expiration: int = 100, **_: Any) -> str:
        if self.error:
            raise self.error
        return f"https://objects.example.org/{path.partition('://')[2]}?Expires={expiration!r}&Signature=5ec7e7"


@pytest.fixture
def signing() -> ArchiveStore:
    fsspec.register_implementation("fakesigned", FakeObjectStore, clobber=True)
    return ArchiveStore("fakesigned://team/archives")


def test_a_store_that_signs_returns_a_presigned_url_with_the_given_expiration(signing: ArchiveStore) -> None:
    start = f"https://objects.example.org/team/archives/{KEY}/{NAME}?Expires="
    assert signing.uri(ARCHIVE, expiration=90.0) == f"{start}90&Signature=5ec7e7"
    assert signing.uri(ARCHIVE) == f"{start}86400&Signature=5ec7e7"


def test_a_store_without_credentials_that_can_sign_is_an_error_that_says_what_to_configure(
    signing: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeObjectStore, "error", AttributeError("you need a private key to sign credentials"))
    with pytest.raises(
        ArchiveError, match=r"Could not presign .*private key.*archive_store_conn_id .*archive_store_uri"
    ):
        signing.uri(ARCHIVE)


def test_a_store_that_does_not_sign_returns_its_plain_uri(tmp_path: Path) -> None:
    folder = tmp_path / "a b%20'c"
    uri = ArchiveStore(folder).uri(ARCHIVE)
    assert uri.startswith("file:///")
    assert Path(unquote(urlsplit(uri).path)) == folder / KEY / NAME
    assert ArchiveStore("memory://team/a b%20'c").uri(ARCHIVE) == f"memory://team/a%20b%2520%27c/{KEY}/{NAME}"


@pytest.mark.parametrize(
    ("root", "before", "after"),
    [
        ("hdfs://namenode:8020/team/", "hdfs://namenode:8020/team", ""),
        ("hdfs:///team", "hdfs:///team", ""),
        ("s3a://bucket", "s3a://bucket", ""),
        (" file:///mnt/team//", "file:///mnt/team", ""),
        ("file:///mnt/a b's", "file:///mnt/a%20b%27s", ""),
        ("abfss://box@team.dfs.core.windows.net/a", "abfss://box@team.dfs.core.windows.net/a", ""),
        ("https://[::1]:8443/a%20b?sv=1&sig=a%2Fb", "https://[::1]:8443/a%20b", "?sv=1&sig=a%2Fb"),
    ],
)
def test_a_uri_below_the_clusters_root_is_returned_if_there_is_one(
    signing: ArchiveStore, root: str, before: str, after: str
) -> None:
    assert signing.uri(ARCHIVE, root=root) == f"{before}/{KEY}/{NAME}{after}"
    validate_store_uri(root.strip(), "archive_store_uri")


def test_a_quoted_uri_cannot_end_a_sql_string() -> None:
    uri = "http://ho'st/a'b\\'c${spark.app.name}/50%/é?q='x'\"&sig=%27+/="
    assert quote_uri(uri) == ("http://ho%27st/a%27b%5C%27c%24%7Bspark.app.name%7D/50%25/%C3%A9?q=%27x%27%22&sig=%27+/=")
    assert quote_uri(quote_uri(uri)) == quote_uri(uri)
    assert quote_uri(SIGNED) == SIGNED


@pytest.mark.parametrize(
    ("root", "problem"),
    [
        ("/mnt/team", "is not a URI. Write a scheme and a path"),
        ("bucket/team", "is not a URI"),
        ("file:/mnt/team", "is not a URI"),
        ("local:///mnt/team", "Write file://"),
        ("https:///team", "does not have a valid host"),
        ("https://a b/team", "does not have a valid host"),
        ("https://host:port/team", "is not a valid URL"),
        ("https://me:5ec7e7@host/team", "contains a user name or a password"),
        ("https://5ec7e7@host/team", "contains a user name or a password"),
        ("hdfs://namenode/a?b", "%3F instead of "),
        ("https://host/a#b?sig=5ec7e7", "%23 instead of #"),
        ("host/a?5ec7e7", "is not a URI"),
    ],
)
def test_a_root_that_a_cluster_cannot_read_is_refused_without_showing_secrets(root: str, problem: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"^archive_store_uri=.*{problem}") as refused:
        validate_store_uri(root, "archive_store_uri")
    assert "5ec7e7" not in str(refused.value)
