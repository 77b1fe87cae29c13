"""Projects and other files that environments are built from."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments import VenvEnvironment

SIX_HASH = "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274"
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


def make_library(
    root: Path, *, name: str = "my-lib", more: str = "", answer: int = 42, backend: str = "hatchling.build"
) -> Path:
    """Write a project with one module."""
    write(
        root / "pyproject.toml",
        f'[project]\nname = "{name}"\nversion = "1.0"\n{more}\n'
        f'[build-system]\nrequires = ["{backend.split(".")[0]}"]\nbuild-backend = "{backend}"\n',
    )
    write(root / "src" / name.replace("-", "_") / "__init__.py", f"ANSWER = {answer}\n")
    return root


def commit(root: Path) -> None:
    """Make a directory a git repository, with all its files in one commit."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
    for step in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", "All"]):
        subprocess.run(["git", *step], cwd=root, check=True)


def digests(root: Path) -> dict[str, str]:
    """Return the sha256 of each file below a directory, except for bytecode."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
