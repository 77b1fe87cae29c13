"""Makes an archive the interpreter of a session's Python workers, while the session runs."""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_sparkdeps.exceptions import InvalidArgumentError, SessionError
from airflow_provider_sparkdeps.spark.delivery.deliver import PYTHON_CONF, deliver

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.archives import Archive

# What this session has been sent, as digest=interpreter; the server keeps it with the session, clones inherit it.
ATTACHED_CONF = "spark.sparkdeps.attached"
# Whether plain UDFs and UDTFs, when they are created, are made to exchange rows by Arrow; Spark 4.3 says yes.
ARROW_CONFS = ("spark.sql.execution.pythonUDF.arrow.enabled", "spark.sql.execution.pythonUDTF.arrow.enabled")
# In front of these: what they were before an environment without pyarrow was attached.
_BEFORE = "spark.sparkdeps.before."


def attach(
    spark: SparkSession, archive: Archive, *, payload: Path | Callable[[], Path], uri: str | None = None
) -> bool:
    """Make `archive` the environment of the session's Python workers from now on.

    The first time, the session is sent the payload; after that, switching between attached archives sends nothing.
    With an archive that has no pyarrow, the UDFs and UDTFs created from now on don't use Arrow unless they ask for it.

    It is what executors run. Spark's driver runs the server's own Python, whatever a session says, for `analyze` of
    UDTFs, and for the schema and the partitions of Python data sources.

    :param spark: a running Spark Connect session.
    :param archive: what was built.
    :param payload: the archive's local file, or a function that fetches it; called only if the file must be sent.
    :param uri: where the cluster itself can read the payload, instead of having it sent.
    :return: whether the payload is new to the session.
    :raises SessionError: the archive's Python is not this process's, which pickles the UDFs; it was built for another
        kind of machine than the server's; the cluster can't read the uri; executors lack the Python that an archive
        without one needs.
    """
    _check_python(archive)
    confs = _read(spark, ATTACHED_CONF, *ARROW_CONFS, *(_BEFORE + conf for conf in ARROW_CONFS))
    attached = dict(entry.split("=", 1) for entry in confs.get(ATTACHED_CONF, "").split())
    new = archive.sha256 not in attached
    if new:
        attached[archive.sha256] = deliver(spark, archive, payload=payload, uri=uri)
    changes = _arrow_changes(confs, has_pyarrow="pyarrow" in archive.packages)
    changes[ATTACHED_CONF] = " ".join(map("=".join, attached.items()))
    changes[PYTHON_CONF] = attached[archive.sha256]
    _write(spark, changes)
    return new


def detach(spark: SparkSession) -> None:
    """Go back to the cluster's own Python; what was sent stays with the session."""
    confs = _read(spark, *ARROW_CONFS, *(_BEFORE + conf for conf in ARROW_CONFS))
    _write(spark, {PYTHON_CONF: None, **_arrow_changes(confs, has_pyarrow=True)})


def add_py_files(spark: SparkSession, paths: Sequence[str | Path]) -> None:
    """Ship modules and packages to the session's Python workers, as one zip.

    :param paths: `.py` files, and directories of packages, each importable by its own name on the executors.
    :raises InvalidArgumentError: a path is neither, or two have the same name.
    """
    if not paths:
        return
    content = _zip([Path(path) for path in paths])
    digest = hashlib.sha256(content).hexdigest()[:12]
    with tempfile.TemporaryDirectory(prefix="sparkdeps-pyfiles-") as directory:
        file = Path(directory) / f"pyfiles-{digest}.zip"
        file.write_bytes(content)
        try:
            spark.addArtifacts(str(file), pyfile=True)
        finally:
            # PySpark puts the zip on this process's path, too, and it is gone in a moment.
            sys.path[:] = [entry for entry in sys.path if entry != str(file)]


def _check_python(archive: Archive) -> None:
    mine = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = archive.python_minor
    if mine != theirs:
        raise SessionError(
            f"the environment has Python {theirs}, this task runs Python {mine}, and UDFs can't be pickled by one for "
            f'the other: build it with python="{mine}" (or leave python out), or run the task on Python {theirs}'
        )


def _arrow_changes(confs: Mapping[str, str], *, has_pyarrow: bool) -> dict[str, str | None]:
    changes: dict[str, str | None] = {}
    for conf in ARROW_CONFS:
        before = confs.get(_BEFORE + conf)
        if before and has_pyarrow:
            changes |= {conf: before, _BEFORE + conf: None}
        elif not before and not has_pyarrow:
            changes |= {conf: "false", _BEFORE + conf: confs.get(conf) or ""}
    return changes


def _read(spark: SparkSession, *confs: str) -> dict[str, str]:
    """Read confs that may not be set, in one call."""
    values = spark.client.get_config_with_defaults(*((conf, None) for conf in confs))
    return {conf: value for conf, value in zip(confs, values, strict=True) if value is not None}


def _write(spark: SparkSession, changes: Mapping[str, str | None]) -> None:
    """Set confs, or unset those that are to be None, in one call each."""
    import pyspark.sql.connect.proto as pb2

    pairs = [pb2.KeyValue(key=conf, value=value) for conf, value in changes.items() if value is not None]
    if pairs:
        spark.client.config(pb2.ConfigRequest.Operation(set=pb2.ConfigRequest.Set(pairs=pairs)))
    if unset := [conf for conf, value in changes.items() if value is None]:
        spark.client.config(pb2.ConfigRequest.Operation(unset=pb2.ConfigRequest.Unset(keys=unset)))


def _zip(paths: list[Path]) -> bytes:
    entries: dict[str, Path] = {}
    for path in map(Path.absolute, paths):
        if path.is_dir() and path.name.isidentifier():
            files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        elif path.is_file() and path.suffix == ".py" and path.stem.isidentifier():
            files = [path]
        else:
            raise InvalidArgumentError(
                f"py_files: {str(path)!r} is neither a .py file nor a directory of a package, with a name to import it "
                "by: give one of these, or add what it holds to the environment's requirements"
            )
        added = {str(file.relative_to(path.parent)): file for file in files}
        if taken := entries.keys() & added.keys():
            raise InvalidArgumentError(
                f"py_files: two of them hold {min(taken)}, and only one would be imported: rename one"
            )
        entries |= added
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(entries):
            # Without dates and modes, the same files are the same zip.
            archive.writestr(zipfile.ZipInfo(name), entries[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
