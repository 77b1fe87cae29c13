"""Credentials are removed from text, and everything else stays readable."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest

from airflow_provider_sparkdeps.utils.redaction import has_credentials, redact, secrets_in

# All that a password may contain, letters more often. White space ends a URL.
ALPHABET = string.ascii_letters * 3 + string.digits + string.punctuation


def passwords(count: int, alphabet: str = ALPHABET, *, length: int = 24) -> list[str]:
    """Passwords that are the same in each run, each with a part that is easy to recognize."""
    rng = random.Random(20261127)
    return ["".join(rng.choices(alphabet, k=length)) + "q5ec7e7q" for _ in range(count)]


def leaks(password: str, text: str) -> list[str]:
    """The parts of a password, of four characters or more, that are in a text."""
    return [part for i in range(len(password) - 3) if (part := password[i : i + 4]) in text]


@pytest.mark.parametrize(
    "template",
    [
        "Failed to fetch https://me:{}@example.com/simple/six/",
        "Failed to fetch 'https://me:{}@example.com/simple/six/'.",
        'index "https://me:{}@example.com:8443/simple", and more',
        "git+https://x-token:{}@example.com/lib.git@main",
        '{{"url": "ftp://me:{}@example.com", "name": "six"}}',
        "https://:{}@example.com/",
        '["https://example.com/a","https://me:{}@example.com/b"]',
    ],
)
def test_no_password_of_a_url_leaks_whatever_it_contains(template: str) -> None:
    for password in passwords(2000):
        shown = redact(template.format(password))
        assert not leaks(password, shown), password
        assert shown.startswith(template.format("").partition(":")[0]), password


@pytest.mark.parametrize("encode", [str, quote, quote_plus, json.dumps, repr], ids=lambda encode: encode.__name__)
@pytest.mark.parametrize("template", ["I saw {} here", "https://me:{}@example.com/x", "?x={}&y=1", "{}"])
def test_no_known_secret_leaks_however_it_is_encoded(template: str, encode: Callable[[str], str]) -> None:
    for password in passwords(500, ALPHABET + " äß€"):
        shown = redact(template.format(encode(password)), [password])
        assert not leaks(encode(password), shown), password
        assert not leaks(password, shown), password


def test_a_known_secret_is_found_in_mixed_and_double_encoding() -> None:
    for spelling in ("a%2fb@c", "a%2Fb%40c", "a/b%40c", "a%252Fb%2540c", quote(quote("a/b@c", safe=""), safe="")):
        assert redact(f"token {spelling}!", ["a/b@c"]) == "token ***!"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("from https://me:secret@example.com/simple", "from https://***@example.com/simple"),
        ("from https://secret@example.com/simple", "from https://***@example.com/simple"),
        ("from https://me:s%40cret@h/a and ftp://u:p@h", "from https://***@h/a and ftp://***@h"),
        ("https://user:p@ss@host/simple", "https://***@host/simple"),
        ("https://user:p'ss@host/simple", "https://***@host/simple"),
        ("https://user:pa/ss@host/simple", "https://***@host/simple"),
        ("https://user:pa/s@s@host/simple", "https://***@host/simple"),
        ("https://user:12/34@example.com/simple", "https://***@example.com/simple"),
        ("https://h/a.whl?x=1&X-Amz-Signature=secret&y=2", "https://h/a.whl?x=1&X-Amz-Signature=***&y=2"),
        ("'https://h/a?key=secret', b", "'https://h/a?key=***', b"),
        ("https://h/a?sig=sec'ret&se=1", "https://h/a?sig=***&se=1"),
        ("https://h/a#access_token=secret", "https://h/a#access_token=***"),
        ("https://conda.example.com/t/ab-1234/channel", "https://conda.example.com/t/***/channel"),
        ("https://conda.example.com/t/ab-1234", "https://conda.example.com/t/***"),
        ("https://h/a?x=1&amp;sig=secret&amp;y=2", "https://h/a?x=1&amp;sig=***&amp;y=2"),
        ('["https://example.com/a","https://u:secret@h/b"]', '["https://example.com/a","https://***@h/b"]'),
        ("A=https://example.com/a,https://u:secret@h/b", "A=https://example.com/a,https://***@h/b"),
        ("https://proxy/x?next=https://secret@h/y", "https://proxy/x?next=https://***@h/y"),
        ('{"a":"https://h1:80/s","b":"https://u:secret@h/b"}', '{"a":"https://h1:80/s","b":"https://***@h/b"}'),
        (r"https:\/\/me:secret@h/a", r"https:\/\/***@h/a"),
        ("https://me:12/secret@localhost/x", "https://***@localhost/x"),
        ("https://me:12/secret@10.0.0.1:8080/x", "https://***@10.0.0.1:8080/x"),
        ("sc://h:15002/;use_ssl=true;token=secret", "sc://h:15002/;use_ssl=true;token=***"),
        ("Protocol=https;AccountName=a;AccountKey=secret==", "Protocol=https;AccountName=a;AccountKey=***"),
        (r"https://h/c?a=1\u0026sig=secret", r"https://h/c?a=1\u0026sig=***"),
        ("Authorization: secret", "Authorization: ***"),
        ("('Authorization', 'Basic secret')", "('Authorization', 'Basic ***')"),
        ("(b'authorization', b'Bearer secret')", "(b'authorization', b'Bearer ***')"),
        (r"{\"Authorization\": \"Basic secret\"}", r"{\"Authorization\": \"Basic ***\"}"),
        ("X-Api-Key: secret", "X-Api-Key: ***"),
        ("PRIVATE-TOKEN: secret", "PRIVATE-TOKEN: ***"),
        ("Authorization: Bearer abc.def, retry", "Authorization: Bearer ***, retry"),
        ('{"authorization": "Basic bWU6c2VjcmV0"}', '{"authorization": "Basic ***"}'),
    ],
)
def test_credentials_are_replaced_and_the_rest_stays(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert has_credentials(redacted.split()[-1]) is False


@pytest.mark.parametrize(
    "text",
    [
        "mail me@example.com about six==1",
        "https://example.com/simple/six/",
        "https://example.com:8443/@scope/package",
        "http://localhost:8080/lib.git@v1.0.2",
        "git+https://example.com/team/lib.git@main#subdirectory=lib",
        "https://[::1]:8080/a@b",
        "git+https://git.example:8443/o/r.git@v1.rc",
        "https://example.com/x.whl?cachekey=1&partition_key=2",
        "/home/t/envs and s3://bucket/t/chan/linux-64",
        "abfss://logs@account.dfs.core.windows.net/archives",
        "https://example.com/search?q=a&keyword=pandas&page=2",
        "s3://bucket/path/env-1.payload and file:///mnt/team/env-1.payload",
        "No solution found: because only six<=1.17 is available and you require six==99, (see https://example.com/a).",
        "lib @ https://example.com/lib-1.0-py3-none-any.whl ; python_version < '3.12'",
    ],
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert not has_credentials(text.split()[0])


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("git+ssh://git@example.com/lib.git", False),
        ("git+ssh://git:secret@example.com/lib.git", True),
        ("https://token@example.com/lib.git", True),
        ("https://example.com/lib.whl?sig=x", True),
        ("https://example.com/t/ab-1234/conda-forge", True),
        ("conda-forge", False),
        ("git+ssh://git@example.com:22/r.git@v1.0.post", False),
        ("git+https://git.example:8443/o/r@v1.rc", False),
        ("https://files.example.org/t/x-1-py3-none-any.whl", False),
        ("git+https://example.com/t/repo", False),
        ("s3://bucket/t/chan/linux-64", False),
        ("https://me:pa/ss@example.com/x", True),
    ],
)
def test_urls_with_credentials_are_recognized(url: str, expected: bool) -> None:
    assert has_credentials(url) is expected


def test_no_text_makes_redaction_hang() -> None:
    # In another process, since a pattern that backtracks cannot be stopped. It would take hours for some of these.
    code = (
        "from airflow_provider_sparkdeps.utils.redaction import redact\n"
        "parts = ['a', '0f', ';;a', '?a=', '&token', '://', 'a://', 'https://', 'https://u:x', '@', '/t/', 'x-',"
        " 'https://h/t/', 'authorization', \"'\", '\\\\', ' ', 'key=', 'h:1@']\n"
        "for part in parts:\n"
        "    text = part * (100_000 // len(part))\n"
        "    redact(text)\n"
        "    redact(text, ['\\\\' * 20 + 'x', 'a\\\\' * 10 + 'b', 'a' * 50 + 'b'])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=180)


def test_the_secrets_of_a_presigned_url_are_its_query_and_the_values_that_are_secret() -> None:
    query = "X-Amz-Credential=AKIA%2Fus&X-Amz-Expires=60&X-Amz-Signature=5ec7e7"
    assert secrets_in(f"https://team.example.com/env-1.payload?{query}") == [query, "AKIA%2Fus", "5ec7e7", "AKIA/us"]
    assert secrets_in("https://me:a%40b@example.com/") == ["a%40b", "a@b"]
    assert secrets_in("https://example.com/x?a") == secrets_in("https://[bad/x") == []
    assert secrets_in("file:///mnt/team/env-1.payload") == secrets_in(None) == []
