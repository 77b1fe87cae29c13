"""Brings an archive to a session: its launcher, and a way for executors to come to the payload."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_sparkdeps.archives.uris import quote_uri
from airflow_provider_sparkdeps.exceptions import ConnectError, SessionError
from airflow_provider_sparkdeps.spark import conf
from airflow_provider_sparkdeps.spark.delivery.launcher import EXECUTOR_SCHEMES, launcher_archive
from airflow_provider_sparkdeps.spark.delivery.reference import FETCH_FAILED, add_file, raise_if_refused
from airflow_provider_sparkdeps.spark.delivery.server_cache import ServerCache
from airflow_provider_sparkdeps.spark.session import Session

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive

log = logging.getLogger(__name__)

# How executors come to a payload: the launcher has it from its source, only where it isn't unpacked already; or Spark
# brings it to each executor of each session, which works everywhere.
_PULL, _FETCH = "pull", "fetch"
# As Java calls them, and as Linux does.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Enough for a task on each core of all but the largest clusters.
_PROBES = 10_000


def deliver(session: Session, archive: Archive, *, payload: Callable[[], Path], uri: str | None) -> str:
    """Bring an archive to a session that does not have it; return where its Python workers find the interpreter.

    The first time that a cluster meets the archive, all executors that it has unpack it now. After that, a session
    is sent the launcher only.

    :param payload: returns the archive's local file; called only if the file must be sent.
    :param uri: where the cluster itself can read the payload, instead of having it sent.
    :raises SessionError: the archive was built for another kind of machine than the server's; the cluster can't read
        the uri; executors can't run the archive's interpreter.
    :raises ConnectError: the server stopped answering.
    """
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import describe

    try:
        return _deliver(session, archive, payload=payload, uri=uri)
    except grpc.RpcError as error:
        # Of calls beside the session's own, which are not tried again.
        endpoint = session.endpoint
        raise ConnectError(
            f"{archive.payload} could not be brought to {endpoint.target}: {describe(error, endpoint)} Run this again."
        ) from None


def _deliver(session: Session, archive: Archive, *, payload: Callable[[], Path], uri: str | None) -> str:
    keeper = _keeper(session, archive)
    source = quote_uri(uri) if uri else keeper.source if keeper else None
    scheme = urlsplit(source).scheme if source else "spark"
    way = keeper.way(scheme) if keeper else None
    first = way is None
    # Its first question takes a server seconds, in which the payload is on its way.
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(_check_platform, session, archive) if first else None
        try:
            if source is None and keeper:
                source = keeper.take(payload(), unless=checked)
        finally:
            if checked:
                checked.result()
    python = _send_launcher(session, archive, source, prove=first)
    if first:
        pulls = keeper and scheme in EXECUTOR_SCHEMES and not (scheme == "spark" and uses_rpc_encryption(session))
        way = _PULL if pulls and source and _executors_can_fetch(session, source, python) else _FETCH
    if way == _FETCH:
        if source is None:
            _send(session, archive, payload())
        else:
            add_file(session.spark, source)
        if first and (archive.interpreter is None or archive.kind == "pex"):
            _try(session, python)
    if first and keeper:
        keeper.note_way(scheme, way or _FETCH)
    return python


def _keeper(session: Session, archive: Archive) -> ServerCache | None:
    import grpc

    try:
        return ServerCache(session, sha256=archive.sha256, name=archive.payload, size=archive.size)
    except grpc.RpcError as error:
        log.warning("%s goes to this session alone, since the server does not answer: %s", archive.payload, error)
        return None


def uses_rpc_encryption(session: Session) -> bool:
    """Whether the cluster wants its own traffic authenticated or encrypted, which the launcher does not do.

    Spark 4.3 serves files to those who do neither all the same. That is not what its administrator has in mind.
    """
    values = session.spark.client.get_config_with_defaults(*((name, "false") for name in conf.RPC_SECURITY))
    return "true" in values


def _executors_can_fetch(session: Session, source: str, python: str) -> bool:
    """Whether executors come to the payload by themselves; all that Spark gives a task to have it unpacked after."""
    try:
        _try(session, python)
    except SessionError as error:
        if FETCH_FAILED not in str(error):
            raise
        raise_if_refused(error, source)
        log.info("Spark has to bring the environment to the executors of each session: %s", error)
        return False
    return True


def _try(session: Session, python: str) -> None:
    """Start the archive's interpreter on as many executors as Spark gives tasks to."""
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.functions import udf
    from pyspark.sql.types import IntegerType

    before = session.spark.conf.get(conf.PYTHON, "")
    session.spark.conf.set(conf.PYTHON, python)
    answering: Any = udf(lambda _: 1, IntegerType(), useArrow=False)
    try:
        # Without a number of partitions, there is one for each core of the cluster.
        session.spark.range(_PROBES).select(answering("id")).collect()
    except PySparkException as error:
        said = re.search(r"sparkdeps: (.+)", str(error))
        cause = said[1] if said else str(error).strip().splitlines()[0]
        raise SessionError(f"executors can't run this environment: {cause}") from error
    finally:
        session.spark.conf.set(conf.PYTHON, before) if before else session.spark.conf.unset(conf.PYTHON)


def _send(session: Session, archive: Archive, payload: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
        named = Path(directory) / archive.payload
        named.symlink_to(payload.resolve())
        session.spark.addArtifacts(str(named), file=True)


def _send_launcher(session: Session, archive: Archive, source: str | None, *, prove: bool) -> str:
    content = launcher_archive(archive, source, prove=prove)
    # Spark takes a name once, and the same archive may come from another source, or be signed for anew.
    name = f"env-{archive.short_digest}-{hashlib.sha256(content).hexdigest()[:6]}"
    with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
        launcher = Path(directory) / f"{name}.tar.gz"
        launcher.write_bytes(content)
        session.spark.addArtifacts(f"{launcher}#{name}", archive=True)
    return f"{name}/bin/python"


def _check_platform(session: Session, archive: Archive) -> None:
    from pyspark.errors import PySparkException

    asked = ", ".join(f"reflect('java.lang.System', 'getProperty', '{name}')" for name in ("os.name", "os.arch"))
    try:
        system, machine = session.spark.sql(f"SELECT {asked}").collect()[0]
    except PySparkException:
        return  # a server that forbids the question; its executors will tell
    theirs = f"{system.lower()}-{_MACHINES.get(machine, machine)}"
    if theirs != archive.platform:
        raise SessionError(
            f"the environment was built for {archive.platform}, and the cluster is {theirs}: build it on a machine "
            f'like the executors, or with platform="{theirs}"'
        )
