"""Archives on executors: what executors keep of them, and archives that are new to all executors."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql.functions import udf

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.spark.attach import attach_payload
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session

can_unshare = os.geteuid() == 0 and shutil.which("unshare") and not subprocess.call(["unshare", "-m", "true"])
needs_unshare = pytest.mark.skipif(not can_unshare, reason="hiding and filling directories needs mount namespaces")


@dataclasses.dataclass(frozen=True)
class Built:
    """An archive, and the file that holds its payload."""

    archive: Archive
    payload: Path

    def attach(self, session: Session) -> bool:
        return attach_payload(session, self.archive, payload=lambda: self.payload)

    def renewed(self, directory: Path) -> Built:
        """Return the same environment with another sha256, which is new to all executors."""
        # An empty gzip member at the end changes only the sha256. It differs by the file name in it.
        tail = io.BytesIO()
        gzip.GzipFile(filename=str(directory), fileobj=tail, mode="wb").close()
        content = self.payload.read_bytes() + tail.getvalue()
        payload = directory / "renewed.payload"
        payload.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"env-{sha256[:12]}.payload"
        return Built(dataclasses.replace(self.archive, size=len(content), sha256=sha256, payload=name), payload)


def commands(directory: Path, *, without: tuple[str, ...]) -> Path:
    """Return a directory for PATH with the commands of this machine, except some."""
    directory.mkdir()
    for command in (path for place in ("/usr/bin", "/bin") for path in Path(place).iterdir()):
        if not any(command.match(pattern) for pattern in without) and not (directory / command.name).is_symlink():
            (directory / command.name).symlink_to(command)
    return directory


def open_session(server: EmbeddedServer, **options: Any) -> Session:
    return Session(Endpoint(host=server.host, port=server.port), **options)


def on_executors(session: Session, function: Callable[[], object], *, executors: int = 2) -> list[str]:
    """Return what a function returns, as strings, in one task on each executor.

    :param executors: their number. The tasks wait for each other, so that no executor runs two of them in turn.
    """
    with tempfile.TemporaryDirectory(prefix="sparkdeps-tests-") as directory:

        @udf("string", useArrow=False)
        def call(_: int) -> str:
            result = str(function())
            os.close(tempfile.mkstemp(dir=directory)[0])
            deadline = time.monotonic() + 60
            while len([*Path(directory).iterdir()]) < executors:
                assert time.monotonic() < deadline, "The other executors run no task."
                time.sleep(0.02)
            return result

        rows = session.spark.range(executors, numPartitions=executors).select(call("id")).collect()
    return [row[0] for row in rows]


def six_on_executors(session: Session, *, executors: int = 2) -> dict[Path, str]:
    """Return the version of six on each executor, by the prefix of its interpreter."""

    def six() -> str:
        import six

        return f"{sys.prefix} {six.__version__}"

    results = (result.rpartition(" ") for result in on_executors(session, six, executors=executors))
    return {Path(prefix): version for prefix, _, version in results}


def stop_python_daemons(server: EmbeddedServer) -> None:
    """Stop the daemons that fork Python workers on executors, and the workers. Spark starts those again it needs."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_daemon = b"pyspark.worker" in (process / "cmdline").read_bytes()
            if is_daemon and (process / "cwd").readlink().is_relative_to(server.work_dir / "spark/work"):
                os.kill(int(process.name), signal.SIGTERM)
        except OSError:
            continue


def homes(server: EmbeddedServer, built: Built) -> set[Path]:
    """Return the directories to which the server's executors unpack an archive."""
    executors = (server.work_dir / "spark/work").glob("app-*/*")
    return {executor / "sparkdeps" / built.archive.short_digest for executor in executors}


def leftovers(home: Path) -> list[str]:
    """Return what a cache contains of an archive in addition to the archive, its locks and launchers."""
    found = home.parent.glob(f"*{home.name}*")
    is_kept = (home.name, f".{home.name}.lock", f".{home.name}.used")
    return [path.name for path in found if path.name not in is_kept and not path.name.startswith("env-")]


def never() -> Path:
    raise AssertionError("The payload was requested.")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait at most 30 seconds for a condition."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "The condition did not become true."
        time.sleep(0.02)
