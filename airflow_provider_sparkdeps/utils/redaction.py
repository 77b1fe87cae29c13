"""Removes credentials from text that is logged, raised or stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote_plus, unquote, urlsplit

# All repetitions are bounded or cannot be entered from two places: text that others write must not make a search slow.
# JSON may escape slashes.
_SCHEME = r"[a-z0-9][a-z0-9+.-]{0,30}:\\?/\\?/"
# A URL ends at white space, or where another one starts after a delimiter, as in `["https://a","https://b"]`.
_URL = re.compile(rf"(?P<scheme>{_SCHEME})(?P<rest>(?:(?![^\w+.%-]{_SCHEME})\S)*)", re.IGNORECASE)
_PORT = re.compile(r":\d{1,5}\\?$")
_HOST = re.compile(
    r"(\[[0-9a-f:.]+\]|localhost|\d{1,3}(\.\d{1,3}){3}|[\w-]+(\.[\w-]+)*\.[a-z]{2,})(?P<end>[:/?#\\'\"]|$)",
    re.IGNORECASE,
)
# An account that everybody uses, as in git+ssh://git@example.com, and not a token.
_SHARED_USER = re.compile(r"^((\w+\+)?ssh://)[^:@/]+@", re.IGNORECASE)
_CONTAINER_SCHEME = re.compile(r"(abfs|wasb)s?:", re.IGNORECASE)
# conda's way of putting a token into a URL. What has an extension is a file.
_PATH_TOKEN = re.compile(r"(?P<start>/t\\?/)[\w%~-]++(?!\.\w)")
_REQUEST_TOKEN = re.compile(r"(?P<start>\b(?:GET|HEAD) /(?:[\w.-]+/)*?t/)[\w%~-]++(?!\.\w)")
_NAME = re.compile(r"(?:[?&#;,]|\\u0026)(?P<name>[\w.%\[\]-]{1,100})=")
# A quote belongs to a value, unless it ends a quoted URL.
_VALUE = re.compile(r"""(?:[^&\s'"]|['"](?!$|[\s,;:.)\]}]))+""")
_SUSPECT = re.compile(r"[@=]|/t/")
_SECRET_NAME = re.compile(
    r"token(?!iz)|secret|passw|passphrase|pwd|credential|signature|^(sig|sas|auth|key)$"
    r"|(api|access|account|auth|private|shared|subscription)[-_]?key",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"""(?P<start>\b(?:(?:proxy-)?authorization|x-[\w-]{0,40}?(?:token|key)|x-jfrog-art-api|private-token)"""
    r"""(?:['"\\]{1,4}\s{0,3}[:=,]|\s{0,3}[:=])\s{0,3}(?:b?['"\\]{1,4})?(?:(?:basic|bearer|digest|negotiate|token)\s)?)"""
    r"""[^\s'",;\\]+(?:\ [^\s'",;\\]+)?""",
    re.IGNORECASE,
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with `***` for user names, passwords, tokens and signatures of URLs and headers in it.

    Where a URL is ambiguous, such as a password with a slash, too much is removed rather than too little.

    :param secrets: values that are removed wherever they are, also if they are quoted, escaped or percent-encoded.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = re.sub(_any_spelling(secret), "***", text)
    text = _URL.sub(_redacted_url, _HEADER.sub(r"\g<start>***", text))
    return "".join(_without_secret_values(_REQUEST_TOKEN.sub(r"\g<start>***", text)))


def has_credentials(url: str) -> bool:
    """Whether a URL contains a user name, a password, a token or a signature."""
    if not _SUSPECT.search(url):  # as most of the thousands of URLs in a lock
        return False
    url = _SHARED_USER.sub(r"\1", url)
    return redact(url) != url


def secrets_in(uri: str | None) -> list[str]:
    """Return the parts of a URI that give access to what it names, such as the signature of a presigned URL.

    What is not a URI has no such parts.
    """
    try:
        parts = urlsplit(uri or "")
        password = parts.password or ""
    except ValueError:
        return []
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    query = parts.query if any(value for _, _, value in pairs) else ""
    values = [value for name, _, value in pairs if value and _SECRET_NAME.search(name)]
    found = [query, *values, *map(unquote, values), password, unquote(password)]
    return [secret for secret in dict.fromkeys(found) if secret]


def _any_spelling(secret: str) -> str:
    """Return a pattern of a secret as it is, or as URLs, JSON, HTML, Python and shells escape it."""
    parts = []
    for run in re.findall(r"\\+|[^\\]", secret):
        if run[0] == "\\":  # each escaping doubles them
            parts.append(rf"(?:\\(?:(?i:u005c))?|%(?:25){{0,4}}(?i:5c)){{1,{16 * len(run)}}}")
        else:
            parts.append(_any_spelling_of_character(run))
    return "".join(parts)


def _any_spelling_of_character(character: str) -> str:
    import html  # large, and DAG files import this module

    encoded = "".join(f"%(?:25){{0,4}}(?i:{byte:02x})" for byte in character.encode(errors="surrogatepass"))
    plain = {re.escape(character), re.escape(html.escape(character)), re.escape(quote_plus(character)), encoded}
    escapes = {json.dumps(character)[1:-1], ascii(character)[1:-1], f"\\u{ord(character):04x}"}
    escaped = {rf"(?<=\\)(?i:{_escaped_pattern(escape)})" for escape in escapes if escape.startswith("\\")}
    return rf"\\{{0,15}}+(?:{'|'.join(sorted(plain | escaped))})"


def _escaped_pattern(escape: str) -> str:
    """Return a pattern of an escape such as `\\ud83d\\ude00`, without its first backslash."""
    return r"\\{1,15}+".join(map(re.escape, escape.removeprefix("\\").split("\\")))


def _redacted_url(match: re.Match[str]) -> str:
    url = _without_user(match["scheme"], match["rest"])
    return _PATH_TOKEN.sub(r"\g<start>***", url) if url.lower().startswith("http") else url


def _without_user(scheme: str, rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    last = rest.rfind("@")
    # A password may contain any of @ : / ? #. So after `name:`, all up to the last @ may belong to it.
    has_password = ":" in user if at else ":" in authority and not authority.startswith("[") and last > 0
    if has_password and not at and _PORT.search(authority):
        # A port and a path with an @, unless what follows is a host. A revision may look like one, as in @v1.rc.
        host = _HOST.match(rest, last + 1)
        has_password = bool(host and (host["end"] in (":", "/") or "+" not in scheme))
    if not has_password and _CONTAINER_SCHEME.match(scheme):
        return scheme + rest  # abfss://container@account
    end = last if has_password else len(user) if at else -1
    return scheme + rest if end < 0 else f"{scheme}***{rest[end:]}"


def _without_secret_values(text: str) -> Iterator[str]:
    done = 0
    for name in _NAME.finditer(text):
        if name.end() >= done and _SECRET_NAME.search(name["name"]) and (value := _VALUE.match(text, name.end())):
            yield f"{text[done : value.start()]}***"
            done = value.end()
    yield text[done:]
