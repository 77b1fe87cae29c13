"""What executors keep of archives, and archives that none of them has seen."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
        """The same environment by another digest, which no executor has seen."""
        # An empty gzip member at the end changes nothing but the digest; its name makes each one different.
        tail = io.BytesIO()
        gzip.GzipFile(filename=str(directory), fileobj=tail, mode="wb").close()
        content = self.payload.read_bytes() + tail.getvalue()
        payload = directory / "renewed.payload"
        payload.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        named = {"sha256": sha256, "payload": f"env-{sha256[:12]}.payload"}
        return Built(dataclasses.replace(self.archive, size=len(content), **named), payload)


def commands(directory: Path, *, without: tuple[str, ...]) -> Path:
    """A directory for PATH with this machine's commands, except some."""
    directory.mkdir()
    for command in (path for place in ("/usr/bin", "/bin") for path in Path(place).iterdir()):
        if not any(command.match(pattern) for pattern in without) and not (directory / command.name).is_symlink():
            (directory / command.name).symlink_to(command)
    return directory


def open_session(server: EmbeddedServer) -> Session:
    return Session(Endpoint(host=server.host, port=server.port))


def six_on_executors(session: Session) -> dict[Path, str]:
    """The version of six that each executor sees, by the prefix of the interpreter that saw it."""

    @udf("string", useArrow=False)
    def six(_: int) -> str:
        import six

        time.sleep(0.2)
        return f"{sys.prefix} {six.__version__}"

    rows = session.spark.range(2, numPartitions=2).select(six("id")).collect()
    return {Path(prefix): version for row in rows for prefix, version in [row[0].rsplit(" ", 1)]}


def homes(server: EmbeddedServer, built: Built) -> set[Path]:
    """Where the server's executors keep an archive once it is unpacked."""
    executors = (server.work_dir / "spark/work").glob("app-*/*")
    return {executor / "sparkdeps" / built.archive.short_digest for executor in executors}


def remains(home: Path) -> list[str]:
    """What lies around in a cache because of an archive, the archive itself and its locks apart."""
    found = home.parent.glob(f"*{home.name}*")
    return [path.name for path in found if path != home and path.suffix not in (".lock", ".used")]


def never() -> Path:
    raise AssertionError("the payload was asked for")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)
