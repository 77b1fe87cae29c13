"""The list of PySpark's suites is complete."""

from __future__ import annotations

import re
from pathlib import Path

from .run import extract_tests
from .suites import PREFIX, read_suites


def test_each_suite_of_the_installed_release_runs_or_is_left_out_with_a_reason(tmp_path: Path) -> None:
    found = {name for name in extract_tests(tmp_path) if re.match(rf"{re.escape(PREFIX)}(\w+\.)*test_\w+$", name)}
    suites = read_suites()
    assert found - set(suites.run) - set(suites.left_out) == set()
    assert not set(suites.left_out) & set(suites.run)
    assert all(suites.left_out.values())
