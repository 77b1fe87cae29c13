"""Projects and other files that environments are built from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments import VenvEnvironment

PYPROJECT = """
[project]
name = "app"
version = "1"
requires-python = ">=3.9"
dependencies = ["six"]
[project.optional-dependencies]
fast = ["markupsafe"]
all = ["app[fast]", "tabulate"]
[dependency-groups]
dev = ["toolz", {include-group = "lint"}]
lint = ["pycodestyle"]
"""


def write(path: Path, text: str) -> Path:
    """Write a file and create its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def key_of(path: Path, **options: Any) -> str:
    """Return the key of the environment that a file describes."""
    return VenvEnvironment.from_file(path, **options).key


def make_library(root: Path, *, name: str = "my-lib", more: str = "") -> Path:
    """Write a project without dependencies."""
    module = name.replace("-", "_")
    write(
        root / "pyproject.toml",
        f'[project]\nname = "{name}"\nversion = "1.0"\n{more}\n'
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n',
    )
    write(root / "src" / module / "__init__.py", "ANSWER = 42\n")
    return root
