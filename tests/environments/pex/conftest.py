"""An existing PEX."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...support.pexes import make_pex


@pytest.fixture(scope="package")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a PEX, in its default layout zipapp."""
    return make_pex(tmp_path_factory.mktemp("pex") / "six.pex", "six==1.16.0", "markupsafe")
