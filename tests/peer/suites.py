"""Reads `suites.txt`: which of PySpark's suites run, which are left out, and which tests are known to differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("suites.txt")
PREFIX = "pyspark.sql.tests.connect."


@dataclass(frozen=True)
class Suites:
    """The sections of the file.

    :param run: modules.
    :param left_out: modules and single tests, and the reason.
    :param any_order: tests that also fail now and then in stock sessions, and the reason.
    :param accumulator: tests that are known to differ with an accumulator, and the reason.
    """

    run: tuple[str, ...]
    left_out: dict[str, str]
    any_order: dict[str, str]
    accumulator: dict[str, str]


def read_suites() -> Suites:
    sections: dict[str, dict[str, str]] = {}
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, _, reason = line.partition(": ")
            section[name] = reason
    left_out = {PREFIX + name: reason for name, reason in sections["left out"].items()}
    return Suites(
        tuple(PREFIX + name for name in sections["run"]), left_out, sections["any order"], sections["accumulator"]
    )
