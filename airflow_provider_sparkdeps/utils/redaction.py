"""Removes credentials from text that is logged, raised or stored."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SECRET_QUERY = re.compile(
    r"([?&][^=&\s]*(?:token|secret|passw|credential|signature|sig|api_?key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
# conda's way of putting a token into a URL.
_TOKEN_SEGMENT = re.compile(r"(?<=/t/)[^/\s'\"]+(?=/)")


def redact(text: str) -> str:
    """Return the text with `***` for user names, passwords and signatures of the URLs in it."""
    return _SECRET_QUERY.sub(r"\1***", _TOKEN_SEGMENT.sub("***", _USER_INFO.sub("***@", text)))
