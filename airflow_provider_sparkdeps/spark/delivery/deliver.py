"""Delivers an archive to a session: its launcher, and a way in which executors get the payload."""

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
from airflow_provider_sparkdeps.spark.delivery.launcher import EXECUTOR_SCHEMES, Start, launcher_archive
from airflow_provider_sparkdeps.spark.delivery.reference import FETCH_FAILED, add_file, raise_if_refused
from airflow_provider_sparkdeps.spark.delivery.server_cache import FetchMode, ServerCache
from airflow_provider_sparkdeps.spark.session import Session
from airflow_provider_sparkdeps.utils.text import first_line

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.archives import Archive

log = logging.getLogger(__name__)

# Java's names of platforms, and Linux's.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Enough for a task on each core, except on the largest clusters.
_PROBE_ROWS = 10_000


def deliver(session: Session, archive: Archive, *, payload: Callable[[], Path], uri: str | None) -> str:
    """Deliver an archive that is new to a session; return the path of its interpreter on executors.

    The first time that a cluster uses the archive, all its executors unpack it now. Later sessions are sent only the
    launcher.

    :param payload: fetches the archive's file. It is called only if the file must be sent.
    :param uri: where the cluster can read the payload, so that it is not sent.
    :raises SessionError: if the archive was built for another platform, if the cluster can't read the URI, or if
        executors can't run the archive's interpreter.
    :raises ConnectError: if the server stopped answering.
    """
    import grpc

    from airflow_provider_sparkdeps.spark.grpc_errors import describe

    try:
        return _deliver(session, archive, payload=payload, uri=uri)
    except grpc.RpcError as error:
        # From calls of `session.rpc`, which are not retried.
        raise ConnectError(
            f"Could not deliver {archive.payload} to {session.endpoint.target}: {describe(error, session.endpoint)} "
            "Run the task again."
        ) from None


def _deliver(session: Session, archive: Archive, *, payload: Callable[[], Path], uri: str | None) -> str:
    spark = session.spark
    cache = _open_cache(session, archive)
    uri = quote_uri(uri) if uri else cache.uri if cache else None
    scheme = urlsplit(uri).scheme if uri else "spark"
    fetch_mode = cache.fetch_mode(scheme) if cache else None
    is_first = fetch_mode is None
    # The upload runs during the check, because the first query of a server takes seconds.
    with ThreadPoolExecutor(1) as pool:
        check = pool.submit(_check_platform, spark, archive) if is_first else None
        try:
            if uri is None and cache:
                uri = cache.put(payload(), cancel_on=check)
        finally:
            if check:
                check.result()
    may_fetch = uri is not None and scheme in EXECUTOR_SCHEMES
    python = _send_launcher(session, archive, uri, probe=is_first and may_fetch)
    if is_first:
        can_fetch = cache and uri and may_fetch and _executors_can_fetch(session, uri, python)
        fetch_mode = FetchMode.EXECUTOR if can_fetch else FetchMode.SPARK
    if fetch_mode == FetchMode.SPARK:
        if uri is None:
            _send(spark, archive, payload())
        else:
            add_file(spark, uri)
        if is_first and (archive.interpreter is None or archive.kind == "pex"):
            _start_interpreter(spark, python)
    if is_first and cache and fetch_mode:
        cache.set_fetch_mode(scheme, fetch_mode)
    return python


def _open_cache(session: Session, archive: Archive) -> ServerCache | None:
    import grpc

    try:
        return ServerCache(session, sha256=archive.sha256, name=archive.payload, size=archive.size)
    except grpc.RpcError as error:
        log.warning("%s is sent to this session only: the server did not answer: %s", archive.payload, error)
        return None


def uses_rpc_encryption(session: Session) -> bool:
    """Return whether the cluster requires authentication or encryption between its processes.

    The launcher supports neither. Spark 4.3 serves files to unauthenticated clients even then. We respect the setting.
    """
    values = session.spark.client.get_config_with_defaults(*((name, "false") for name in conf.RPC_SECURITY))
    return "true" in values


def _executors_can_fetch(session: Session, uri: str, python: str) -> bool:
    """Return whether executors can fetch the payload. If so, all that run a task have unpacked it afterwards."""
    if uri.startswith("spark:") and uses_rpc_encryption(session):
        return False
    try:
        _start_interpreter(session.spark, python)
    except SessionError as error:
        if not FETCH_FAILED.search(str(error)):
            raise
        raise_if_refused(error, uri)
        log.info("Spark brings the environment to the executors of each session: %s", error)
        return False
    return True


def _start_interpreter(spark: SparkSession, python: str) -> None:
    """Start the archive's interpreter on as many executors as Spark uses for one task on each core."""
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.functions import udf
    from pyspark.sql.types import IntegerType

    before = spark.conf.get(conf.PYTHON, "")
    spark.conf.set(conf.PYTHON, python)
    one: Any = udf(lambda _: 1, IntegerType(), useArrow=False)
    try:
        # By default, there is one partition for each core of the cluster.
        spark.range(_PROBE_ROWS).select(one("id")).collect()
    except PySparkException as error:
        message = re.search(r"sparkdeps: (.+)", str(error))
        reason = message[1] if message else first_line(error)
        raise SessionError(f"Executors could not run the environment: {reason}") from error
    finally:
        spark.conf.set(conf.PYTHON, before) if before else spark.conf.unset(conf.PYTHON)


def _send(spark: SparkSession, archive: Archive, payload: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
        named = Path(directory) / archive.payload
        named.symlink_to(payload.resolve())
        spark.addArtifacts(str(named), file=True)


def _send_launcher(session: Session, archive: Archive, uri: str | None, *, probe: bool) -> str:
    """Send launchers, and return a path that leads to one of them from wherever Spark starts Python workers.

    This is the directory of the session or of its clone on an executor, or the executor's own one, which is the parent
    of both. A stream runs in a clone, but workers of `foreach` start in the directory of the session.
    """
    # Another session has another path, and so other workers. Spark accepts a name once, but the URI of an archive may
    # change, e.g. by a new signature.
    name = f"env-{archive.short_digest}-{hashlib.sha256(f'{session.id} {uri} {probe}'.encode()).hexdigest()[:12]}"
    path = f"{conf.PREFIX}/{name}"
    with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
        places = {
            path: Start.SESSION,
            f"../{session.rpc.server_side_id(session.id)}/{path}": Start.SESSION,
            f"../{path}": Start.EXECUTOR,
        }
        launchers = [Path(directory) / f"{name}-{number}.tar.gz" for number in range(len(places))]
        for launcher, start in zip(launchers, places.values(), strict=True):
            launcher.write_bytes(launcher_archive(archive, uri, probe=probe, start=start))
        session.spark.addArtifacts(*map("{}#{}".format, launchers, places), archive=True)
    return f"{path}/bin/python"


def _check_platform(spark: SparkSession, archive: Archive) -> None:
    from pyspark.errors import PySparkException

    properties = ", ".join(f"reflect('java.lang.System', 'getProperty', '{name}')" for name in ("os.name", "os.arch"))
    try:
        system, machine = spark.sql(f"SELECT {properties}").collect()[0]
    except PySparkException:
        return  # The server does not allow the query. If the platform is wrong, executors fail.
    platform = f"{system.lower()}-{_MACHINES.get(machine, machine)}"
    if platform != archive.platform:
        raise SessionError(
            f"The environment was built for {archive.platform}, but the cluster is {platform}. Build it on a machine "
            f'with the platform of the executors, or with platform="{platform}".'
        )
