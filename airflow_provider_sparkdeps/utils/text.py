"""Shortens what a tool printed, for logs and errors."""

from __future__ import annotations

from airflow_provider_sparkdeps.utils.redaction import redact

_SCREEN_LINES = 40
_SCREEN_COLUMNS = 500


def one_screen(text: str) -> str:
    """Return the text redacted and, if it is long, without its middle."""
    lines = [line[:_SCREEN_COLUMNS] for line in redact(text).strip().splitlines()]
    if len(lines) > _SCREEN_LINES:
        half = _SCREEN_LINES // 2
        lines[half:-half] = [f"... ({len(lines) - 2 * half} more lines) ..."]
    return "\n".join(lines)
