"""The few file operations that a store needs, whole or not at all wherever the file system can."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from upath import UPath

    StorePath: TypeAlias = Path | UPath

# Folders there are only names; making one may ask for rights that writing a file doesn't need.
_WITHOUT_FOLDERS = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci"}

PART = ".part"
"""Ends the name of what is still being written."""


def store_path(root: str | os.PathLike[str] | StorePath) -> StorePath:
    """Return a local path where the root is local, else a `UPath`.

    :param root: a path, a URL such as "s3://bucket/folder", or a `UPath` such as `ObjectStoragePath`.
    :raises InvalidArgumentError: when there is no file system for it.
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
                f"There is no file system for an archive store at {scheme}://: {error}."
                " Install the fsspec package for it, or use a path that all workers share."
            ) from error
        return root
    if getattr(root, "protocol", None) in ("", "file", "local"):
        return Path(root.path)  # type: ignore[union-attr]
    if hasattr(root, "protocol"):
        return root  # type: ignore[return-value]
    return Path(root).absolute()


def make_folder(folder: StorePath) -> None:
    """Make a folder and those above it, where there are such things."""
    if isinstance(folder, Path) or folder.protocol not in _WITHOUT_FOLDERS:
        folder.mkdir(parents=True, exist_ok=True)


def read(path: StorePath) -> bytes | None:
    """Return a file's contents as they are now; None when it doesn't exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def size(path: StorePath) -> int | None:
    """Return a file's size as it is now; None when it doesn't exist."""
    if not isinstance(path, Path):
        path.fs.invalidate_cache()
    try:
        return int(path.stat().st_size)
    except FileNotFoundError:
        return None


def entries(folder: StorePath) -> list[StorePath]:
    """Return what is in a folder now; nothing when it doesn't exist."""
    if not isinstance(folder, Path):
        folder.fs.invalidate_cache()
    try:
        return [folder / path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        # UPath says the second of folders that don't exist, too.
        if folder.exists():
            raise
        return []


def write(path: StorePath, data: bytes) -> None:
    """Write or replace a file in one step: by renaming where it is local, in one request elsewhere."""
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    part = _part(path)
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def create(path: StorePath, data: bytes) -> bool:
    """Write a file that doesn't exist yet; False when it does. Exclusive wherever the file system can."""
    if isinstance(path, Path):
        part = _part(path)
        try:
            part.write_bytes(data)
            # Unlike open("xb"), a link is never seen half-written.
            path.hardlink_to(part)
        except FileExistsError:
            return False
        except OSError:
            pass  # a file system without hard links
        else:
            return True
        finally:
            part.unlink(missing_ok=True)
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
    """Move a local file into the store, replacing what may be there; a reader sees the old or the new one."""
    if not isinstance(target, Path):
        target.fs.put_file(str(source), target.path)
        return
    if source.parent == target.parent:
        source.replace(target)
        return
    part = _part(target)
    try:
        shutil.move(source, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def part_in(folder: StorePath, scratch: Path) -> Iterator[Path]:
    """Give a path to write a large file at, before its name is known; what is there at the end is removed.

    :param folder: where `upload` will put it: in there, if that is local, so that nothing has to be copied then.
    :param scratch: a local directory, if it isn't.
    """
    part = _part((folder if isinstance(folder, Path) else scratch) / "payload")
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def remove(path: StorePath) -> None:
    """Remove a file; it is well if there is none."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
