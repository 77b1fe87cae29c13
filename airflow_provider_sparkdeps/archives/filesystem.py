"""File operations on a store, atomic wherever the file system allows it."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.redaction import redact

if TYPE_CHECKING:
    from upath import UPath

    StorePath: TypeAlias = Path | UPath

# Object stores have no folders. To make one may need permissions that writing a file does not.
_WITHOUT_FOLDERS = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}

PARTIAL_SUFFIX = ".part"
"""Suffix of a file that is being written."""


def store_path(root: str | os.PathLike[str] | StorePath) -> StorePath:
    """Return a `Path` for a local root, else a `UPath`.

    :param root: a path, a URL such as "s3://bucket/folder", or a `UPath` such as `ObjectStoragePath`.
    :raises InvalidArgumentError: if there is no file system for the root.
    """
    if isinstance(root, str | Path):
        url = str(root)
        if "://" not in url:
            path = Path(url)
            return (path.expanduser() if url.startswith("~") else path).absolute()
        if url.startswith("file://"):
            return Path(unquote(urlsplit(url).path))
        from upath import UPath

        try:
            root = UPath(url)
            _ = root.fs
        except (ValueError, ImportError) as error:
            scheme = url.partition("://")[0]
            raise InvalidArgumentError(
                f"Could not open an archive store at {scheme}://: {error}. Install the fsspec package for this file"
                " system, or use a path that all workers share."
            ) from error
        return root
    if getattr(root, "protocol", None) in ("", "file", "local"):
        return Path(root.path)  # type: ignore[union-attr]
    if hasattr(root, "protocol"):
        return root  # type: ignore[return-value]
    return Path(root).absolute()


@contextlib.contextmanager
def explain_store_errors(root: StorePath) -> Iterator[None]:
    """Raise an `OSError` of a `with` block as an `ArchiveError` that names the store."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"Could not use the archive store {redact(str(root))}: {redact(str(error)) or repr(error)}."
            " Check that this worker may read and write it."
        ) from error


def make_folder(folder: StorePath) -> None:
    """Make a folder and its parents if the file system has folders."""
    if isinstance(folder, Path) or folder.protocol not in _WITHOUT_FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)


def read(path: StorePath) -> bytes | None:
    """Return the current content of a file; None if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def size(path: StorePath) -> int | None:
    """Return the current size of a file; None if it does not exist."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()
    try:
        return int(path.stat().st_size)
    except FileNotFoundError:
        return None


def list_folder(folder: StorePath) -> list[StorePath]:
    """Return the current entries of a folder; an empty list if it does not exist."""
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache()
    try:
        return [folder / path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        # UPath raises NotADirectoryError for a folder that does not exist.
        if folder.exists():
            raise
        return []


def write(path: StorePath, data: bytes) -> None:
    """Write or replace a file atomically: by renaming if it is local, else in one request."""
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    with _partial(path) as part:
        part.write_bytes(data)
        part.replace(path)


def create(path: StorePath, data: bytes) -> bool:
    """Write a new file; return False if it exists already. Exclusive wherever the file system allows it."""
    if isinstance(path, Path):
        with _partial(path) as part:
            part.write_bytes(data)
            try:
                # Unlike with open("xb"), readers never see a half-written file.
                path.hardlink_to(part)
            except FileExistsError:
                return False
            except OSError:
                pass  # The file system has no hard links.
            else:
                return True
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    except (NotImplementedError, ValueError):
        if size(path) is not None:
            return False
        write(path, data)
    return True


def upload(source: Path, target: StorePath) -> None:
    """Move a local file into the store. Readers see either the old file or the new one."""
    if not isinstance(target, Path):
        target.fs.put_file(str(source), target.path)
        return
    if source.parent == target.parent:
        source.replace(target)
        return
    with _partial(target) as part:
        shutil.move(source, part)
        part.replace(target)


def partial_file(folder: StorePath, scratch: Path) -> AbstractContextManager[Path]:
    """Return a context manager with a local path for a large file that is uploaded to a folder when its name is known.

    The path is in the folder if that is local, so that `upload` copies nothing. The file is removed at the end.

    :param scratch: a local directory, used if the folder is not local.
    """
    return _partial((folder if isinstance(folder, Path) else scratch) / "payload")


def remove(path: StorePath) -> None:
    """Remove a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
