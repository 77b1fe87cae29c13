"""Shortens text for logs and errors, and reads the values that rendered templates stand for."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

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


def parse_template(value: Any) -> Any:
    """Return the value of a rendered template, which is JSON or a Python literal; other values unchanged."""
    for parse in (json.loads, ast.literal_eval) if isinstance(value, str) else ():
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(value)
    return value
