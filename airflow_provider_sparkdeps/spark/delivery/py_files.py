"""Sends the modules and packages of `py_files` to a session, as one zip file."""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.spark.session import Session


def add_py_files(session: Session, paths: Sequence[str | Path]) -> None:
    """Make modules and packages importable for the session's Python workers.

    :param paths: `.py` files and package directories. Executors import them by their names.
    :raises InvalidArgumentError: if a path is neither, or if two have the same name.
    """
    if not paths:
        return
    content = _zip([Path(path) for path in paths])
    with tempfile.TemporaryDirectory(prefix="sparkdeps-pyfiles-") as directory:
        file = Path(directory) / f"pyfiles-{hashlib.sha256(content).hexdigest()[:12]}.zip"
        file.write_bytes(content)
        try:
            session.spark.addArtifacts(str(file), pyfile=True)
        finally:
            # PySpark also adds the zip to sys.path of this process, but it is deleted now.
            sys.path[:] = [entry for entry in sys.path if entry != str(file)]


def _zip(paths: list[Path]) -> bytes:
    entries: dict[str, Path] = {}
    for path in map(Path.absolute, paths):
        if path.is_dir() and path.name.isidentifier():
            files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        elif path.is_file() and path.suffix == ".py" and path.stem.isidentifier():
            files = [path]
        else:
            raise InvalidArgumentError(
                f"py_files: {str(path)!r} is not a .py file or a package directory whose name can be imported. Rename "
                "it, or add its packages to the environment's requirements."
            )
        added = {str(file.relative_to(path.parent)): file for file in files}
        if duplicates := entries.keys() & added.keys():
            raise InvalidArgumentError(
                f"py_files: two paths contain {min(duplicates)}, but only one could be imported. Rename one."
            )
        entries |= added
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(entries):
            # Without dates and modes, the same files give the same zip.
            archive.writestr(zipfile.ZipInfo(name), entries[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
