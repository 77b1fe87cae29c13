"""ArchiveStore: where built environments are found, built, fetched and listed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import files
from airflow_provider_sparkdeps.archives.archive import Archive
from airflow_provider_sparkdeps.archives.contents import Contents, look_through
from airflow_provider_sparkdeps.archives.lease import TTL_SECONDS, BuildStatus, Lease, Watch, read_status, take_lease
from airflow_provider_sparkdeps.archives.pack import Packed, pack
from airflow_provider_sparkdeps.archives.scratch import scratch_directory
from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Environment, Login
from airflow_provider_sparkdeps.environments.check import check_prefix
from airflow_provider_sparkdeps.environments.process import Deadline
from airflow_provider_sparkdeps.environments.words import redact
from airflow_provider_sparkdeps.errors import ArchiveError, BuildError, WishError

if TYPE_CHECKING:
    from upath import UPath

    from airflow_provider_sparkdeps.archives.files import StorePath

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
BUILD = "build.json"
_POLL_SECONDS = 0.5
_BLOCK = 1 << 20


class ArchiveStore:
    """Archives in a directory that all workers reach, local or on any fsspec file system.

    .. code-block:: python

        store = ArchiveStore("s3://team/sparkdeps")
        archive = store.build(VenvEnvironment(["pandas<3", "pyarrow"]), timeout=900, progress=print)
        payload = store.fetch(archive)

    :param root: a path, a URL, or a `UPath` such as `ObjectStoragePath`; made when something is built.
    :param cache_dir: where payloads of a store that isn't local are kept, one file per digest; by default
        `sparkdeps` in the user's cache directory.
    :raises WishError: when there is no file system for the root.
    """

    def __init__(self, root: str | os.PathLike[str] | UPath, *, cache_dir: Path | None = None) -> None:
        self._root = files.store_path(root)
        self._cache_dir = cache_dir

    def __repr__(self) -> str:
        return f"ArchiveStore({redact(str(self._root))!r})"

    def find(self, environment: Environment | str) -> Archive | None:
        """Return the archive of an environment, or None when it has not been built.

        :param environment: the environment, or its key.
        :raises ArchiveError: when what is there is damaged: the manifest unreadable, the payload missing or not of
            its size; when the store can't be read.
        """
        key = _key(environment)
        folder = self._root / key
        with self._reachable():
            data = files.read(folder / MANIFEST)
            if data is None:
                return None
            mend = f"Build the environment again, or remove {redact(str(folder))}."
            try:
                archive = Archive.from_dict(json.loads(data))
            except (ValueError, ArchiveError) as error:
                raise ArchiveError(f"The manifest of archive {key[:12]} can't be read: {error} {mend}") from error
            if archive.key != key:
                raise ArchiveError(f"The manifest in folder {key[:12]} is that of {archive.key[:12]}. {mend}")
            size = files.size(folder / archive.payload)
        if size != archive.size:
            fault = "is missing" if size is None else f"has {size} bytes instead of {archive.size}"
            raise ArchiveError(f"The payload {archive.payload} of archive {key[:12]} {fault}. {mend}")
        return archive

    def build(
        self,
        environment: Environment,
        *,
        timeout: float,
        progress: Callable[[str], None] | None = None,
        refresh: bool = False,
        logins: Mapping[str, Login] | None = None,
    ) -> Archive:
        """Return the archive of an environment, having it built if need be, here or by whoever is at it already.

        An archive that `find` calls damaged is built again.

        :param environment: what to build.
        :param timeout: seconds until it is given up, waiting for another builder included.
        :param progress: called with one line at a time, on what is done or waited for.
        :param logins: of the environment's `connections`, by id.
        :param refresh: resolve and build even if there is an archive, and replace it.
        :raises BuildError: when it can't be built, here or by the other builder; with the builder's own words.
        :raises ArchiveError: when the store can't be used.
        """
        say = progress or _log.info
        deadline = Deadline(timeout, f"Building {environment.title}")
        lease_path = self._root / environment.key / BUILD
        watch = Watch(say)
        while True:
            status = self.status(environment)
            watch.look(status)
            archive = None if refresh else self._sound(environment, say)
            if archive is not None:
                say(f"store: archive {archive.digest12} is there, of {archive.created_at}: nothing to build")
                return archive
            with self._reachable():
                files.make_folder(lease_path.parent)
                lease = take_lease(lease_path, over=watch.silent_token)
            if lease is not None:
                with lease:
                    # It may have been published between the last look and the lease.
                    archive = None if refresh else self._sound(environment, say)
                    return archive or self._build(environment, lease, say, deadline, logins or {})
            time.sleep(min(deadline.left(f"waiting for another builder ({status})"), _POLL_SECONDS))

    def fetch(self, archive: Archive) -> Path:
        """Return a local path of an archive's payload, of the right size and sha256.

        :param archive: as `find` or `build` returned it.
        :raises ArchiveError: when the payload is missing or not what the manifest says; when the store can't be
            read.
        """
        source = self._root / archive.key / archive.payload
        with self._reachable():
            if isinstance(source, Path):
                _verify(source, archive)
                return source
            cache = self._cache_dir or _user_cache()
            cached = cache / f"{archive.sha256}.payload"
            with contextlib.suppress(ArchiveError):
                _verify(cached, archive)
                return cached
            cache.mkdir(parents=True, exist_ok=True)
            with scratch_directory("fetch-", parent=cache) as scratch:
                partial = scratch / archive.payload
                _verify(source, archive, copy_to=partial)
                partial.replace(cached)
            return cached

    def uri(self, archive: Archive) -> str:
        """Return where an archive's payload is, for others to read it: `file:///...`, `s3://...`."""
        path = self._root / archive.key / archive.payload
        return path.as_uri() if isinstance(path, Path) else str(path)

    def status(self, environment: Environment | str) -> BuildStatus | None:
        """Return who builds an environment and how far they are, or how the last build failed; else None.

        :param environment: the environment, or its key.
        :raises ArchiveError: when the store can't be read.
        """
        with self._reachable():
            return read_status(self._root / _key(environment) / BUILD)

    def list(self) -> list[Archive]:
        """Return all archives that are whole, by key; damaged ones are named in the log.

        :raises ArchiveError: when the store can't be read.
        """
        archives = []
        with self._reachable():
            keys = sorted(path.name for path in files.entries(self._root) if _KEY.fullmatch(path.name))
        for key in keys:
            try:
                archive = self.find(key)
            except ArchiveError as error:
                _log.warning("%s", error)
            else:
                archives += [archive] if archive else []
        return archives

    def _sound(self, environment: Environment, say: Callable[[str], None]) -> Archive | None:
        try:
            return self.find(environment)
        except ArchiveError as error:
            say(f"store: {error}")
            return None

    def _build(
        self,
        environment: Environment,
        lease: Lease,
        say: Callable[[str], None],
        deadline: Deadline,
        logins: Mapping[str, Login],
    ) -> Archive:
        def report(phase: str, text: str) -> None:
            lease.report(phase, text)
            say(f"{phase}: {text}")

        self._sweep(environment.key)
        with _room_to_work(environment), scratch_directory("sparkdeps-build-") as scratch:
            prefix, moved, payload = scratch / "built" / "prefix", scratch / "moved", scratch / "payload"
            prefix.parent.mkdir()
            built = environment.build(prefix, report=report, timeout=deadline.left(), logins=logins)
            # What runs here, under another path, runs wherever it is unpacked.
            prefix.rename(moved)
            report("check", f"Python {built.python} and its packages, from another directory")
            check_prefix(moved, built, deadline=deadline)
            contents = look_through(moved, interpreter=built.interpreter, glibc=environment.glibc)
            report("pack", f"packages: {len(built.packages)}, {contents.unpacked_size / 1e6:.1f} MB")
            packed = pack(moved, payload, deadline=deadline)
            archive = _archive(environment, built, packed, contents)
            report("publish", f"{archive.payload}, {archive.size / 1e6:.1f} MB")
            with self._reachable():
                folder = self._root / environment.key
                files.upload(payload, folder / archive.payload)
                files.write(folder / MANIFEST, json.dumps(archive.to_dict(), indent=1).encode())
        return archive

    def _sweep(self, key: str) -> None:
        """Remove what killed builders left, unless it is so fresh that somebody may still be writing it."""
        folder = self._root / key
        with self._reachable():
            published = files.size(folder / MANIFEST) is not None
            for path in files.entries(folder):
                leftover = path.name.endswith(files.PART) or (path.name.startswith("env-") and not published)
                with contextlib.suppress(FileNotFoundError):
                    if leftover and time.time() - path.stat().st_mtime > TTL_SECONDS:
                        path.unlink()

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveError(
                f"The archive store {redact(str(self._root))} can't be used: {redact(str(error)) or error!r}."
                " Check that this worker may read and write it."
            ) from error


@contextlib.contextmanager
def _room_to_work(environment: Environment) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildError(
            f"Building {environment.title} failed on this machine: {error}. It works in {tempfile.gettempdir()}, which"
            " needs room for the unpacked environment and its archive; set TMPDIR to work elsewhere."
        ) from error


_KEY = re.compile(r"[0-9a-f]{64}")


def _key(environment: Environment | str) -> str:
    if isinstance(environment, Environment):
        return environment.key
    if not _KEY.fullmatch(environment):
        raise WishError(f"{environment!r} is not an environment's key. Give the environment, or 64 hex digits.")
    return environment


def _archive(environment: Environment, built: BuiltPrefix, packed: Packed, contents: Contents) -> Archive:
    return Archive(
        key=environment.key,
        kind=environment.kind,
        # A .tar.gz by content. By name, Spark would unpack it once for each session.
        payload=f"env-{packed.sha256[:12]}.payload",
        size=packed.size,
        sha256=packed.sha256,
        interpreter=built.interpreter,
        python=built.python,
        platform=environment.platform,
        packages=built.packages,
        lock=built.lock,
        environment=environment.to_dict(),
        contents=asdict(contents),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=f"{socket.gethostname()}:{os.getpid()}",
        after_unpack=built.after_unpack,
    )


def _verify(source: StorePath, archive: Archive, *, copy_to: Path | None = None) -> None:
    """Read a payload once, copying it on the way if asked to; raise when it is not the archive's."""
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as file, open(copy_to or os.devnull, "wb") as copy:  # noqa: PTH123
            while block := file.read(_BLOCK):
                size += len(block)
                digest.update(block)
                copy.write(block)
    except FileNotFoundError as error:
        raise ArchiveError(f"The payload {archive.payload} is gone from the store. Build it again.") from error
    if (size, digest.hexdigest()) != (archive.size, archive.sha256):
        fault = f"has {size} bytes instead of {archive.size}" if size != archive.size else "has another sha256"
        raise ArchiveError(
            f"The payload {archive.payload} {fault}: it was damaged after it was built."
            " Build the environment again with refresh=True."
        )


def _user_cache() -> Path:
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "sparkdeps"
