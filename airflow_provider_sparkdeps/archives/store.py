"""ArchiveStore: finds, builds, fetches and lists archives."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.archives.build import MANIFEST, Build
from airflow_provider_sparkdeps.archives.filesystem import explain_store_errors
from airflow_provider_sparkdeps.archives.lease import Lease, acquire_lease
from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.archives.payload import verify_payload
from airflow_provider_sparkdeps.archives.refresh import RefreshPolicy
from airflow_provider_sparkdeps.archives.status import BuildStatus, BuildWatcher, read_status
from airflow_provider_sparkdeps.archives.uris import EXPIRATION, presign_or_uri, uri_under
from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.context import BuildContext, Login
from airflow_provider_sparkdeps.exceptions import ArchiveError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.redaction import redact
from airflow_provider_sparkdeps.utils.scratch import scratch_directory

if TYPE_CHECKING:
    from upath import UPath

_log = logging.getLogger(__name__)

BUILD = "build.json"
_POLL_SECONDS = 0.5
_KEY = re.compile(r"[0-9a-f]{64}")


class ArchiveStore:
    """Archives in a directory that all workers share, local or on any fsspec file system.

    .. code-block:: python

        store = ArchiveStore("s3://team/sparkdeps")
        archive = store.build(VenvEnvironment(["pandas<3", "pyarrow"]), timeout=900, progress=print)
        payload = store.fetch(archive)

    :param root: a path, a URL, or a `UPath` such as `ObjectStoragePath`; created by the first build.
    :param cache_dir: local directory for copies of payloads if the store is not local, one file per digest; by default
        `sparkdeps` in the user's cache directory.
    :raises InvalidArgumentError: if there is no file system for the root.
    """

    def __init__(self, root: str | os.PathLike[str] | UPath, *, cache_dir: Path | None = None) -> None:
        self._root = filesystem.store_path(root)
        self._cache_dir = cache_dir

    def __repr__(self) -> str:
        return f"ArchiveStore({redact(str(self._root))!r})"

    def find(self, environment: Environment | str) -> Archive | None:
        """Return the archive of an environment; None if it has not been built.

        :param environment: the environment, or its key.
        :raises ArchiveError: if the archive is damaged (its manifest is not readable, or its payload is missing or of
            another size), or the store can't be read.
        """
        key = _key(environment)
        folder = self._root / key
        with explain_store_errors(self._root):
            data = filesystem.read(folder / MANIFEST)
            if data is None:
                return None
            fix = f"Build the environment again, or remove {redact(str(folder))}."
            try:
                archive = Archive.from_dict(json.loads(data))
            except (ValueError, ArchiveError) as error:
                raise ArchiveError(f"Could not read the manifest of archive {key[:12]}: {error} {fix}") from error
            if archive.key != key:
                raise ArchiveError(f"The manifest in folder {key[:12]} belongs to archive {archive.key[:12]}. {fix}")
            size = filesystem.size(folder / archive.payload)
        if size != archive.size:
            problem = "is missing" if size is None else f"has {size} bytes instead of {archive.size}"
            raise ArchiveError(f"The payload {archive.payload} of archive {key[:12]} {problem}. {fix}")
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
        """Return the archive of an environment. Build it if necessary, or wait for the process that is building it.

        A damaged archive is built again. `published` of the returned archive is true if this call has published it.

        :param environment: what to build.
        :param timeout: seconds until the build fails, including the time to wait for another process.
        :param progress: called with each line of progress; by default, lines are logged.
        :param refresh: resolve the environment again even if it has an archive. The archive is replaced only if the
            lock has changed or the payload is damaged.
        :param max_age: like `refresh`, if the archive was built and last checked longer ago; seconds or a timedelta.
        :param logins: for the environment's connections, by connection id.
        :raises InvalidArgumentError: if `max_age` is invalid, or input files can't be read or change during the build.
        :raises BuildError: if the build fails, in this process or in the other; with the message of the failed tool.
        :raises ArchiveError: if the store can't be used.
        """
        log_line = progress or _log.info
        policy = RefreshPolicy(refresh=refresh, max_age=max_age)
        deadline = Deadline(timeout, f"Building {environment.title}")
        # Computed once, because it may read many files.
        key = environment.key
        folder = self._root / key
        watcher = BuildWatcher(environment.title, log_line)
        while True:
            status = self.status(key)
            watcher.check(status)
            existing = self._find_intact(key, log_line)
            with explain_store_errors(self._root):
                if existing and not policy.stale_reason(existing, folder):
                    log_line(_describe_found(existing, None))
                    return existing
                filesystem.make_folder(folder)
                lease = acquire_lease(folder / BUILD, replace=watcher.stale_token)
            if lease is not None:
                break
            watcher.log_progress()
            time.sleep(min(deadline.left(f"waiting for another builder ({status})"), _POLL_SECONDS))
        with lease:
            # Another process may have published or checked the archive before the lease was acquired.
            existing = self._find_intact(key, log_line)
            if existing:
                with explain_store_errors(self._root):
                    reason = policy.stale_reason(existing, folder)
                log_line(_describe_found(existing, reason))
                if reason is None:
                    return existing
            context = BuildContext(deadline, _reporter(lease, log_line), logins or {})
            return Build(environment, key, self._root, context, log_line).run(existing)

    def fetch(self, archive: Archive) -> Path:
        """Return a local path of an archive's payload, after checking its size and sha256.

        :param archive: as returned by `find` or `build`.
        :raises ArchiveError: if the payload is missing or damaged, or the store can't be read.
        """
        source = self._root / archive.key / archive.payload
        with explain_store_errors(self._root):
            if isinstance(source, Path):
                verify_payload(source, archive)
                return source
            cache = self._cache_dir or _user_cache()
            cached = cache / f"{archive.sha256}.payload"
            with contextlib.suppress(ArchiveError):
                verify_payload(cached, archive)
                return cached
            cache.mkdir(parents=True, exist_ok=True)
            with scratch_directory("fetch-", parent=cache) as scratch:
                partial = scratch / archive.payload
                verify_payload(source, archive, copy_to=partial)
                partial.replace(cached)
            return cached

    def uri(self, archive: Archive, *, expiration: float = EXPIRATION, root: str | None = None) -> str:
        """Return the URI of an archive's payload: a presigned URL if the file system signs URLs, else its plain URI.

        :param archive: as returned by `find` or `build`.
        :param expiration: seconds until a presigned URL expires.
        :param root: URI of this store as the cluster sees it. The returned URI is then below it and not signed.
        :raises ArchiveError: if the file system signs URLs, but not with the credentials that it has.
        """
        if root is not None:
            return uri_under(root, archive.key, archive.payload)
        return presign_or_uri(self._root / archive.key / archive.payload, expiration=expiration)

    def status(self, environment: Environment | str) -> BuildStatus | None:
        """Return the status of a running build, or of the last one if it failed; else None.

        :param environment: the environment, or its key.
        :raises ArchiveError: if the store can't be read.
        """
        with explain_store_errors(self._root):
            return read_status(self._root / _key(environment) / BUILD)

    def list_archives(self) -> list[Archive]:
        """Return all intact archives, sorted by key; damaged ones are logged.

        :raises ArchiveError: if the store can't be read.
        """
        with explain_store_errors(self._root):
            keys = sorted(path.name for path in filesystem.list_folder(self._root) if _KEY.fullmatch(path.name))
        found = [self._find_intact(key, _log.warning) for key in keys]
        return [archive for archive in found if archive]

    def _find_intact(self, key: str, log_line: Callable[[str], None]) -> Archive | None:
        try:
            return self.find(key)
        except ArchiveError as error:
            log_line(f"store: {error}")
            return None


def _reporter(lease: Lease, log_line: Callable[[str], None]) -> Callable[[str, str], None]:
    def report(phase: str, line: str) -> None:
        lease.report(phase, line)
        log_line(f"{phase}: {line}")

    return report


def _describe_found(archive: Archive, stale_reason: str | None) -> str:
    action = f"resolving again, because {stale_reason}" if stale_reason else "nothing to build"
    return f"store: found archive {archive.short_digest}, built {archive.created_at}: {action}"


def _key(environment: Environment | str) -> str:
    if isinstance(environment, Environment):
        return environment.key
    if not _KEY.fullmatch(environment):
        raise InvalidArgumentError(
            f"{environment!r} is not the key of an environment. Give the environment, or 64 hexadecimal digits."
        )
    return environment


def _user_cache() -> Path:
    home = os.environ.get("HOME") or tempfile.gettempdir()
    return Path(os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache") / "sparkdeps"
