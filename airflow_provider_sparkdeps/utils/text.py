"""Shortens text for logs and errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from airflow_provider_sparkdeps.utils.redaction import redact

_MAX_LINES = 40
_MAX_COLUMNS = 500


def shorten_output(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the output of a tool redacted and, if it is long, without its middle."""
    lines = [line[:_MAX_COLUMNS] for line in redact(text, secrets).strip().splitlines()]
    if len(lines) > _MAX_LINES:
        half = _MAX_LINES // 2
        lines[half:-half] = [f"... ({len(lines) - 2 * half} more lines) ..."]
    return "\n".join(lines)


def first_line(error: object) -> str:
    """Return the first line of an error's message or of a string, without the full stop; else the type's name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip().rstrip(".")


def join_limited(items: Sequence[object], limit: int = 5) -> str:
    """Return the first items in one string, such as "a, b and 3 more"."""
    shown = ", ".join(map(str, items[:limit]))
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
