"""A local project that requirements can refer to."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.projects import make_library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """The directory of the project my-lib, which has no dependencies."""
    return make_library(tmp_path / "my_lib")
