"""What others said, made fit for logs and errors: without credentials, and no longer than a screen."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SECRET_QUERY = re.compile(
    r"([?&][^=&\s]*(?:token|secret|passw|credential|signature|sig|api_?key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
# conda's way of putting a token into a URL.
_TOKEN_SEGMENT = re.compile(r"(?<=/t/)[^/\s'\"]+(?=/)")
_SCREEN_LINES = 40
_SCREEN_COLUMNS = 500


def redact(text: str) -> str:
    """Return the text with `***` for user names, passwords and signatures of the URLs in it."""
    return _SECRET_QUERY.sub(r"\1***", _TOKEN_SEGMENT.sub("***", _USER_INFO.sub("***@", text)))


def one_screen(text: str) -> str:
    """Return the text redacted and, if it is long, without its middle."""
    lines = [line[:_SCREEN_COLUMNS] for line in redact(text).strip().splitlines()]
    if len(lines) > _SCREEN_LINES:
        half = _SCREEN_LINES // 2
        lines[half:-half] = [f"... ({len(lines) - 2 * half} more lines) ..."]
    return "\n".join(lines)
