"""Removes credentials from text that is logged, raised or stored."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<rest>\S+)", re.IGNORECASE)
_PORT = re.compile(r":\d{1,5}$")
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.[a-z]{2,}\b", re.IGNORECASE)
# An account that everybody uses, as in git+ssh://git@example.com, and not a token.
_SHARED_USER = re.compile(r"^(\w+\+)?ssh://[^:@/]+@", re.IGNORECASE)
_SECRET_NAME = re.compile(r"token|secret|passw|pwd|credential|signature|key(?!word)|\bsig$", re.IGNORECASE)
# A quote belongs to a value, unless it ends a quoted URL.
_PARAMETER = re.compile(r"""(?P<start>[?&#;])(?P<name>[^=&?#\s]+)=(?P<value>(?:[^&\s'"]|['"](?!$|[\s,;:.)\]}]))+)""")
# conda's way of putting a token into a URL.
_PATH_TOKEN = re.compile(r"(?<=/t/)[^/\s'\"?#]+")
_HEADER = re.compile(r"""(?P<start>\bauthorization['"]?\s*[:=]\s*['"]?\w+\s+)[^\s'",;]+""", re.IGNORECASE)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text with `***` for user names, passwords, tokens and signatures of URLs and headers in it.

    Where a URL is ambiguous, such as a password with a slash, too much is removed rather than too little.

    :param secrets: values that are removed wherever they are, also if they are quoted, escaped or percent-encoded.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = re.sub("".join(map(_any_spelling, secret)), "***", text)
    text = _PATH_TOKEN.sub("***", _URL.sub(_without_user, _HEADER.sub(r"\g<start>***", text)))
    return _PARAMETER.sub(_without_value, text)


def has_credentials(url: str) -> bool:
    """Whether a URL contains a user name, a password, a token or a signature."""
    url = _SHARED_USER.sub("ssh://", url)
    return redact(url) != url


def secrets_in(uri: str | None) -> list[str]:
    """Return the parts of a URI that give access to what it names, such as the signature of a presigned URL."""
    parts = urlsplit(uri or "")
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    values = [value for name, _, value in pairs if value and _SECRET_NAME.search(name)]
    found = [parts.query, *values, *map(unquote, values), parts.password or "", unquote(parts.password or "")]
    return [secret for secret in dict.fromkeys(found) if secret]


def _any_spelling(character: str) -> str:
    """Return a pattern of a character as it is, or as URLs, JSON, Python and shells escape it."""
    encoded = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode(errors="surrogatepass"))
    plus = r"|\+" if character == " " else ""
    return rf"(?:\\*{re.escape(character)}|{encoded}|\\u(?i:{ord(character):04x}){plus})"


def _without_user(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    last = rest.rfind("@")
    # A password may contain any of @ : / ? #. So after `name:`, all up to the last @ may belong to it.
    has_password = ":" in user if at else ":" in authority and not authority.startswith("[") and last > 0
    if has_password and not at and _PORT.search(authority):
        # A port and a path with an @, unless what follows is a host.
        has_password = bool(_HOST.match(rest, last + 1))
    end = last if has_password else len(user) if at else -1
    return match[0] if end < 0 else f"{scheme}***{rest[end:]}"


def _without_value(match: re.Match[str]) -> str:
    return f"{match['start']}{match['name']}=***" if _SECRET_NAME.search(match["name"]) else match[0]
