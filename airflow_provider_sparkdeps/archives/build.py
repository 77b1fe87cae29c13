"""One build of an environment under its lease: resolve, install, verify, pack, publish."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.archives import filesystem
from airflow_provider_sparkdeps.archives.contents import scan_prefix
from airflow_provider_sparkdeps.archives.filesystem import PARTIAL_SUFFIX, explain_store_errors
from airflow_provider_sparkdeps.archives.manifest import Archive, make_manifest
from airflow_provider_sparkdeps.archives.pack import start_packing
from airflow_provider_sparkdeps.archives.payload import verify_payload
from airflow_provider_sparkdeps.archives.refresh import diff_locks, record_check
from airflow_provider_sparkdeps.archives.status import TTL_SECONDS
from airflow_provider_sparkdeps.environments.base import Environment
from airflow_provider_sparkdeps.environments.context import BuildContext
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import ArchiveError, BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.scratch import scratch_directory

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives.filesystem import StorePath

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Build:
    """A build by the process that holds the lease.

    :param environment: what to build.
    :param key: of the environment when the build started.
    :param root: of the store.
    :param context: deadline, progress and logins of the build.
    :param log_line: called with each line about the existing archive.
    """

    environment: Environment
    key: str
    root: StorePath
    context: BuildContext
    log_line: Callable[[str], None]

    def run(self, existing: Archive | None) -> Archive:
        """Build and publish the environment's archive; return the existing one if the lock has not changed.

        :param existing: an intact archive of the environment.
        """
        context = self.context
        if existing is not None and self._keep_if_unchanged(existing, self.environment.resolve_lock(context)):
            return existing
        self._remove_leftovers()
        with self._explain_disk_errors(), scratch_directory("sparkdeps-build-") as scratch:
            prefix, moved = scratch / "built" / "prefix", scratch / "moved"
            prefix.parent.mkdir()
            built = self.environment.build(prefix, context)
            # An environment that works here after it was moved works wherever it is unpacked.
            prefix.rename(moved)
            context.report("verify", f"Python {built.python} and its packages, from another directory")
            contents = scan_prefix(moved, interpreter=built.interpreter, glibc=self.environment.glibc)
            context.report("pack", f"packages: {len(built.packages)}, {contents.unpacked_size / 1e6:.1f} MB")
            with filesystem.partial_file(self._folder, scratch) as part, contextlib.ExitStack() as publishing:
                with start_packing(moved, part, deadline=context.deadline) as packing:
                    verify_prefix(moved, built, deadline=context.deadline)
                publishing.enter_context(explain_store_errors(self.root))
                packed = packing.result()
                if self.environment.key != self.key:
                    raise InvalidArgumentError(
                        f"Could not publish {self.environment.title}: its input files changed while it was built."
                        " Build it again."
                    )
                archive = make_manifest(
                    self.environment, self.key, built, contents, size=packed.size, sha256=packed.sha256
                )
                context.report("publish", f"{archive.payload}, {archive.size / 1e6:.1f} MB")
                filesystem.upload(part, self._folder / archive.payload)
                # The manifest is the commit: it is written last.
                filesystem.write(self._folder / MANIFEST, json.dumps(archive.to_dict(), indent=1).encode())
        return replace(archive, published=True)

    @property
    def _folder(self) -> StorePath:
        return self.root / self.key

    def _keep_if_unchanged(self, existing: Archive, lock: tuple[str, ...]) -> bool:
        """Record that the lock of an existing archive was checked, and return True; False if it has to be replaced."""
        if lock != existing.lock:
            for line in diff_locks(existing.lock, lock):
                self.log_line(f"store: {line}")
            return False
        try:
            with explain_store_errors(self.root):
                # The payload in the store, not a copy in this worker's cache: a refresh repairs a damaged one.
                verify_payload(self._folder / existing.payload, existing)
        except ArchiveError as error:
            self.log_line(f"store: {error}")
            return False
        with explain_store_errors(self.root):
            record_check(existing, self._folder)
        self.log_line(f"store: the lock of archive {existing.short_digest} has not changed: nothing is published")
        return True

    def _remove_leftovers(self) -> None:
        """Remove the files of killed builders, unless they are so recent that another process may be writing them."""
        with explain_store_errors(self.root):
            is_published = filesystem.size(self._folder / MANIFEST) is not None
            for path in filesystem.list_folder(self._folder):
                is_leftover = path.name.endswith(PARTIAL_SUFFIX) or (path.name.startswith("env-") and not is_published)
                with contextlib.suppress(FileNotFoundError):
                    if is_leftover and time.time() - path.stat().st_mtime > TTL_SECONDS:
                        path.unlink()

    @contextlib.contextmanager
    def _explain_disk_errors(self) -> Iterator[None]:
        """Report a local disk error as a BuildError with the directory that was used."""
        try:
            yield
        except OSError as error:
            raise BuildError(
                f"Could not build {self.environment.title} on this machine: {error}. The build used"
                f" {tempfile.gettempdir()}, which needs space for the unpacked environment and its archive. Free some"
                " space, or set TMPDIR to another directory."
            ) from error
