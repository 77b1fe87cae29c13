"""ArchiveStore: where built environments are found, built, fetched and listed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.archives.build import Job, explain_disk_errors, make_manifest
from airflow_provider_sparkdeps.archives.contents import scan_prefix
from airflow_provider_sparkdeps.archives.lease import TTL_SECONDS, BuildStatus, Watch, acquire_lease, read_status
from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.archives.pack import packing
from airflow_provider_sparkdeps.archives.payload import verify
from airflow_provider_sparkdeps.archives.refresh import RefreshPolicy, changes, record_check
from airflow_provider_sparkdeps.archives.uris import EXPIRATION, address, uri_under
from airflow_provider_sparkdeps.environments.base import Environment, Login
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.redaction import redact
from airflow_provider_sparkdeps.utils.scratch import scratch_directory

if TYPE_CHECKING:
    from upath import UPath


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
    :raises InvalidArgumentError: when there is no file system for the root.
    """

    def __init__(self, root: str | os.PathLike[str] | UPath, *, cache_dir: Path | None = None) -> None:
        self._root = filesystem.store_path(root)
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
            data = filesystem.read(folder / MANIFEST)
            if data is None:
                return None
            mend = f"Build the environment again, or remove {redact(str(folder))}."
            try:
                archive = Archive.from_dict(json.loads(data))
            except (ValueError, ArchiveError) as error:
                raise ArchiveError(f"The manifest of archive {key[:12]} can't be read: {error} {mend}") from error
            if archive.key != key:
                raise ArchiveError(f"The manifest in folder {key[:12]} is that of {archive.key[:12]}. {mend}")
            size = filesystem.size(folder / archive.payload)
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
        max_age: timedelta | float | None = None,
        logins: Mapping[str, Login] | None = None,
    ) -> Archive:
        """Return the archive of an environment, having it built if need be, here or by whoever is at it already.

        An archive that `find` calls damaged is built again.

        :param environment: what to build.
        :param timeout: seconds until it is given up, waiting for another builder included.
        :param progress: called with one line at a time, on what is done or waited for.
        :param logins: of the environment's `connections`, by id.
        :param refresh: resolve the wish again even if there is an archive; replace that if the lock has changed, or
            if it was damaged.
        :param max_age: the same, if the archive was built, and last looked at so, longer ago; seconds or a timedelta.
        :raises InvalidArgumentError: if max_age is invalid, or the files it names can't be read or change.
        :raises BuildError: when it can't be built, here or by the other builder; with the builder's own words.
        :raises ArchiveError: when the store can't be used.
        """
        say = progress or _log.info
        freshness = RefreshPolicy(refresh=refresh, max_age=max_age)
        deadline = Deadline(timeout, f"Building {environment.title}")
        # Asked once, since it may read many files.
        key = environment.key
        folder = self._root / key
        watch = Watch(say)
        while True:
            status = self.status(key)
            watch.look(status)
            archive = self._sound(key, say)
            with self._reachable():
                if archive is not None:
                    fresh, line = freshness.judge(archive, folder)
                    if fresh:
                        say(line)
                        return archive
                filesystem.make_folder(folder)
                lease = acquire_lease(folder / BUILD, over=watch.stale_token)
            if lease is not None:
                with lease:
                    # It may have been published, or looked at, between the last look and the lease.
                    archive = self._sound(key, say)
                    if archive is not None:
                        with self._reachable():
                            fresh, line = freshness.judge(archive, folder)
                        say(line)
                        if fresh:
                            return archive
                    job = Job(environment, key, lease, say, deadline, logins or {})
                    if archive is not None and self._is_unchanged(archive, job):
                        return archive
                    return self._build(job, before=archive)
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
                verify(source, archive)
                return source
            cache = self._cache_dir or _user_cache()
            cached = cache / f"{archive.sha256}.payload"
            with contextlib.suppress(ArchiveError):
                verify(cached, archive)
                return cached
            cache.mkdir(parents=True, exist_ok=True)
            with scratch_directory("fetch-", parent=cache) as scratch:
                partial = scratch / archive.payload
                verify(source, archive, copy_to=partial)
                partial.replace(cached)
            return cached

    def uri(self, archive: Archive, *, expiration: float = EXPIRATION, root: str | None = None) -> str:
        """Return where others read an archive's payload: a presigned URL where the store signs, else its plain URI.

        :param expiration: seconds for which a presigned URL is good.
        :param root: the store's address as others see it, if that is another; then nothing is signed.
        :raises ArchiveError: when the store could sign, and has no credentials that do.
        """
        if root is not None:
            return uri_under(root, archive.key, archive.payload)
        return address(self._root / archive.key / archive.payload, expiration=expiration)

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
            keys = sorted(path.name for path in filesystem.entries(self._root) if _KEY.fullmatch(path.name))
        for key in keys:
            try:
                archive = self.find(key)
            except ArchiveError as error:
                _log.warning("%s", error)
            else:
                archives += [archive] if archive else []
        return archives

    def _sound(self, key: str, say: Callable[[str], None]) -> Archive | None:
        try:
            return self.find(key)
        except ArchiveError as error:
            say(f"store: {error}")
            return None

    def _is_unchanged(self, archive: Archive, job: Job) -> bool:
        """Whether the wish still resolves to an archive's lock, as far as that can be told without building."""
        lock = job.environment.resolve_lock(report=job.report, timeout=job.deadline.left(), logins=job.logins)
        return lock is not None and self._is_kept(archive, lock, job)

    def _is_kept(self, archive: Archive, lock: tuple[str, ...], job: Job) -> bool:
        if lock != archive.lock:
            for line in changes(archive.lock, lock):
                job.say(f"store: {line}")
            return False
        try:
            with self._reachable():
                # In the store itself, not in this worker's cache: a refresh mends what was damaged there.
                verify(self._root / archive.key / archive.payload, archive)
        except ArchiveError as error:
            job.say(f"store: {error}")
            return False
        with self._reachable():
            record_check(self._root / archive.key, archive)
        job.say(f"store: the lock of archive {archive.short_digest} has not changed: nothing is published")
        return True

    def _build(self, job: Job, *, before: Archive | None) -> Archive:
        environment, report, deadline = job.environment, job.report, job.deadline
        self._sweep(job.key)
        with explain_disk_errors(environment), scratch_directory("sparkdeps-build-") as scratch:
            prefix, moved = scratch / "built" / "prefix", scratch / "moved"
            prefix.parent.mkdir()
            built = environment.build(prefix, report=report, timeout=deadline.left(), logins=job.logins)
            if before is not None and self._is_kept(before, built.lock, job):
                return before
            # What runs here, under another path, runs wherever it is unpacked.
            prefix.rename(moved)
            report("check", f"Python {built.python} and its packages, from another directory")
            contents = scan_prefix(moved, interpreter=built.interpreter, glibc=environment.glibc)
            report("pack", f"packages: {len(built.packages)}, {contents.unpacked_size / 1e6:.1f} MB")
            folder = self._root / job.key
            with filesystem.part_in(folder, scratch) as part, contextlib.ExitStack() as reachable:
                with packing(moved, part, deadline=deadline) as packed_later:
                    verify_prefix(moved, built, deadline=deadline)
                reachable.enter_context(self._reachable())
                packed = packed_later.result()
                if environment.key != job.key:
                    raise InvalidArgumentError(
                        f"Files that {environment.title} names changed while it was built. Build it again."
                    )
                archive = make_manifest(job.key, environment, built, packed, contents)
                report("publish", f"{archive.payload}, {archive.size / 1e6:.1f} MB")
                filesystem.upload(part, folder / archive.payload)
                filesystem.write(folder / MANIFEST, json.dumps(archive.to_dict(), indent=1).encode())
        return archive

    def _sweep(self, key: str) -> None:
        """Remove what killed builders left, unless it is so fresh that somebody may still be writing it."""
        folder = self._root / key
        with self._reachable():
            published = filesystem.size(folder / MANIFEST) is not None
            for path in filesystem.entries(folder):
                leftover = path.name.endswith(filesystem.PART) or (path.name.startswith("env-") and not published)
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


_KEY = re.compile(r"[0-9a-f]{64}")


def _key(environment: Environment | str) -> str:
    if isinstance(environment, Environment):
        return environment.key
    if not _KEY.fullmatch(environment):
        raise InvalidArgumentError(
            f"{environment!r} is not an environment's key. Give the environment, or 64 hex digits."
        )
    return environment


def _user_cache() -> Path:
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "sparkdeps"
