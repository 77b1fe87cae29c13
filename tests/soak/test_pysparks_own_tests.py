"""What passes in a stock session passes in ours, in all of PySpark's own tests, with each supported minor release."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

RELEASES = ("", "4.2.1", "4.1.4", "4.0.5")


@pytest.mark.parametrize("release", RELEASES, ids=[release or "installed" for release in RELEASES])
def test_pysparks_own_tests_that_pass_in_a_stock_session_pass_in_ours(release: str) -> None:
    command = [sys.executable, "-m", "tests.peer", *(["--pyspark", release] if release else [])]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
