"""Makes an archive the interpreter of a session's Python workers, while the session runs."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import shlex
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_sparkdeps.errors import SessionError, WishError
from airflow_provider_sparkdeps.spark.reference import add_file

if TYPE_CHECKING:
    from pyspark.sql.connect.session import SparkSession

    from airflow_provider_sparkdeps.archives import Archive

PYTHON_CONF = "spark.sql.execution.pyspark.python"
# What this session has been sent, by digest; the server keeps it with the session, and clones of it inherit it.
ATTACHED_CONF = "spark.sparkdeps.attached"
# Whether plain UDFs and UDTFs, when they are created, are made to exchange rows by Arrow; Spark 4.3 says yes.
ARROW_CONFS = ("spark.sql.execution.pythonUDF.arrow.enabled", "spark.sql.execution.pythonUDTF.arrow.enabled")
# As Java calls them, and as Linux does.
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
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
    attached = (spark.conf.get(ATTACHED_CONF, "") or "").split()
    name = _name(archive)
    new = archive.sha256 not in attached
    if new:
        _check_machine(spark, archive)
        if uri is None:
            _upload(spark, archive, payload if isinstance(payload, Path) else payload())
        else:
            _refer(spark, uri)
        with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
            launcher = Path(directory) / f"{name}.tar.gz"
            launcher.write_bytes(_launcher_archive(archive))
            spark.addArtifacts(f"{launcher}#{name}", archive=True)
        spark.conf.set(ATTACHED_CONF, " ".join([*attached, archive.sha256]))
    _choose_arrow(spark, has_pyarrow="pyarrow" in archive.packages)
    before = spark.conf.get(PYTHON_CONF, "")
    spark.conf.set(PYTHON_CONF, f"{name}/bin/python")
    if new and (archive.interpreter is None or archive.kind == "pex"):
        try:
            _try_interpreter(spark)
        except SessionError:
            spark.conf.set(PYTHON_CONF, before) if before else spark.conf.unset(PYTHON_CONF)
            raise
    return new


def _upload(spark: SparkSession, archive: Archive, payload: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="sparkdeps-attach-") as directory:
        named = Path(directory) / archive.payload
        named.symlink_to(payload.resolve())
        spark.addArtifacts(str(named), file=True)


def _refer(spark: SparkSession, uri: str) -> None:
    add_file(spark, uri)


def detach(spark: SparkSession) -> None:
    """Go back to the cluster's own Python; what was sent stays with the session."""
    spark.conf.unset(PYTHON_CONF)
    _choose_arrow(spark, has_pyarrow=True)


def add_py_files(spark: SparkSession, paths: Sequence[str | Path]) -> None:
    """Ship modules and packages to the session's Python workers, as one zip.

    :param paths: `.py` files, and directories of packages, each importable by its own name on the executors.
    :raises WishError: a path is neither, or two have the same name.
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


def _check_machine(spark: SparkSession, archive: Archive) -> None:
    from pyspark.errors import PySparkException

    asked = ", ".join(f"reflect('java.lang.System', 'getProperty', '{name}')" for name in ("os.name", "os.arch"))
    try:
        system, machine = spark.sql(f"SELECT {asked}").collect()[0]
    except PySparkException:
        return  # a server that forbids the question; its executors will tell
    theirs = f"{system.lower()}-{_MACHINES.get(machine, machine)}"
    if theirs != archive.platform:
        raise SessionError(
            f"the environment was built for {archive.platform}, and the cluster is {theirs}: build it on a machine "
            f'like the executors, or with platform="{theirs}"'
        )


def _try_interpreter(spark: SparkSession) -> None:
    """Start the archive's interpreter on an executor: it needs a Python there, which nobody else can vouch for."""
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.functions import udf
    from pyspark.sql.types import IntegerType

    answering: Any = udf(lambda _: 1, IntegerType(), useArrow=False)
    try:
        spark.range(1).select(answering("id")).collect()
    except PySparkException as error:
        said = re.search(r"sparkdeps: (.+)", str(error))
        cause = said[1] if said else str(error).strip().splitlines()[0]
        raise SessionError(f"executors can't run this environment: {cause}") from error


def _choose_arrow(spark: SparkSession, *, has_pyarrow: bool) -> None:
    for conf in ARROW_CONFS:
        before = spark.conf.get(_BEFORE + conf, "")
        if before and has_pyarrow:
            spark.conf.set(conf, before)
            spark.conf.unset(_BEFORE + conf)
        elif not before and not has_pyarrow:
            spark.conf.set(_BEFORE + conf, spark.conf.get(conf) or "")
            spark.conf.set(conf, "false")


def _name(archive: Archive) -> str:
    return f"env-{archive.digest12}"


def _launcher_archive(archive: Archive) -> bytes:
    """Return a tar.gz with `bin/python`; the same bytes for the same archive, as Spark wants of the same name."""
    values = {
        "digest": archive.digest12,
        "sha256": archive.sha256,
        "payload": archive.payload,
        "interpreter": archive.interpreter or "bin/python",
        "version": archive.python_minor,
        "bundled": "yes" if archive.interpreter else "no",
        "finish": archive.after_unpack or "",
    }
    assignments = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
    template = resources.files(__package__).joinpath("launcher.sh").read_text(encoding="utf-8")
    script = template.replace("# @values@", assignments).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry: Any = tarfile.TarInfo("bin/python")
        entry.size, entry.mode = len(script), 0o755
        tar.addfile(entry, io.BytesIO(script))
    return gzip.compress(packed.getvalue(), mtime=0)


def _zip(paths: list[Path]) -> bytes:
    entries: dict[str, Path] = {}
    for path in map(Path.absolute, paths):
        if path.is_dir() and path.name.isidentifier():
            files = [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        elif path.is_file() and path.suffix == ".py" and path.stem.isidentifier():
            files = [path]
        else:
            raise WishError(
                f"py_files: {str(path)!r} is neither a .py file nor a directory of a package, with a name to import it "
                "by: give one of these, or add what it holds to the environment's requirements"
            )
        added = {str(file.relative_to(path.parent)): file for file in files}
        if taken := entries.keys() & added.keys():
            raise WishError(f"py_files: two of them hold {min(taken)}, and only one would be imported: rename one")
        entries |= added
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(entries):
            # Without dates and modes, the same files are the same zip.
            archive.writestr(zipfile.ZipInfo(name), entries[name].read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
