"""One build: what it has to work with, and the manifest of what came of it."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from airflow_provider_sparkdeps.archives.contents import Contents
from airflow_provider_sparkdeps.archives.lease import Lease
from airflow_provider_sparkdeps.archives.manifest import Archive
from airflow_provider_sparkdeps.archives.pack import Packed
from airflow_provider_sparkdeps.environments.base import BuiltPrefix, Environment, Login
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline


@dataclass(frozen=True)
class Job:
    """One build, by who holds the lease."""

    environment: Environment
    key: str
    lease: Lease
    say: Callable[[str], None]
    deadline: Deadline
    logins: Mapping[str, Login]

    def report(self, phase: str, text: str) -> None:
        """Tell a phase and its progress to whoever waits, here and elsewhere."""
        self.lease.report(phase, text)
        self.say(f"{phase}: {text}")


@contextlib.contextmanager
def explain_disk_errors(environment: Environment) -> Iterator[None]:
    """Have a full or broken disk of this machine told as such."""
    try:
        yield
    except OSError as error:
        raise BuildError(
            f"Building {environment.title} failed on this machine: {error}. It works in {tempfile.gettempdir()}, which"
            " needs room for the unpacked environment and its archive; set TMPDIR to work elsewhere."
        ) from error


def make_manifest(
    key: str, environment: Environment, built: BuiltPrefix, packed: Packed, contents: Contents
) -> Archive:
    """Return the manifest of an environment that has just been built."""
    return Archive(
        key=key,
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
        post_unpack_script=built.post_unpack_script,
    )
