"""The files of a local project that its installation may read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from airflow_provider_sparkdeps.environments.requirements.git import run_git

# What tools, editors and builds leave in a project that git does not know.
_CACHES = {
    ".git", ".hg", ".svn", ".tox", ".nox", ".eggs", ".idea", ".vscode", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    "__pycache__", ".DS_Store",
}  # fmt: skip
_CACHE_SUFFIXES = (".egg-info", ".pyc", ".log")
_SETUPTOOLS_BUILD = re.compile(r"lib.*|bdist\..*|temp\..*|scripts-.*")


def project_files(root: Path) -> Iterator[Path]:
    """Yield the files of a project: what git does not ignore, or without git all but caches and logs, sorted."""
    listed = run_git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if not listed or run_git(root, "check-ignore", "--quiet", ".") is not None:
        yield from walk(root)
        return
    logs = set()
    if ".log\0" in listed:
        logs = set((run_git(root, "ls-files", "-z", "--others", "--exclude-standard", "*.log") or "").split("\0"))
    for name in sorted({*listed.split("\0")} - logs - {""}):
        path = root / name
        if path.is_symlink() and path.is_dir():
            if not Path(os.path.realpath(root)).is_relative_to(os.path.realpath(path)):
                yield from walk(path)
        elif path.is_dir():
            # A submodule, which may not be there.
            yield from project_files(path) if (path / ".git").exists() else walk(path)
        elif path.is_file():
            yield path


def walk(root: Path) -> Iterator[Path]:
    """Yield the files of a directory, sorted, without caches and logs."""
    seen: set[str] = set()
    found = []
    for directory, names, files in os.walk(root, followlinks=True):
        here = Path(directory)
        real = os.path.realpath(here)
        # A link to a parent directory would be followed forever.
        names[:] = [] if real in seen else [name for name in names if not _is_cache(here / name, at_top=here == root)]
        if real not in seen:
            found += [here / name for name in files if not _is_cache(here / name, at_top=False)]
        seen.add(real)
    yield from sorted(found)


def _is_cache(path: Path, *, at_top: bool) -> bool:
    if path.name in _CACHES or path.name.endswith(_CACHE_SUFFIXES) or (path / "pyvenv.cfg").is_file():
        return True
    if path.name == "node_modules":
        return not (path / "__init__.py").exists()
    if at_top and path.name in ("build", "dist"):
        left = _SETUPTOOLS_BUILD if path.name == "build" else re.compile(r".*\.(whl|gz|zip)")
        return all(left.fullmatch(each.name) for each in path.iterdir())
    return False
