"""The small archive that stands for an environment in a session: the interpreter's launcher."""

from __future__ import annotations

import gzip
import io
import shlex
import tarfile
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive

# Schemes of addresses from which an executor may have the payload without Spark's help.
EXECUTOR_SCHEMES = ("file", "http", "https", "spark")
# What an executor keeps unpacked: so many environments, or so many MB, the longest unused go first.
_MOST = 12
_MOST_MEGABYTES = 20_000


def launcher_archive(archive: Archive, source: str | None = None, *, prove: bool = False) -> bytes:
    """Return a tar.gz with `bin/python`; the same bytes for the same arguments.

    :param archive: what it starts the interpreter of.
    :param source: the address at which executors may get the payload when Spark doesn't bring it to them: of a
        scheme in `EXECUTOR_SCHEMES`, or None.
    :param prove: get the payload from there even on executors that have it unpacked, to see whether they can.
    """
    scheme = urlsplit(source).scheme if source else ""
    unpacked = archive.contents.unpacked_size
    values = {
        "digest": archive.short_digest,
        "sha256": archive.sha256,
        "payload": archive.payload,
        "megabytes": str(int(unpacked / 1e6)),
        "interpreter": archive.interpreter or "bin/python",
        "version": archive.python_minor,
        "bundled": "yes" if archive.interpreter else "no",
        "finish": archive.post_unpack_script or "",
        "scheme": scheme if scheme in EXECUTOR_SCHEMES else "",
        "source": _as_shell_reads_it(source) if source else "",
        "prove": "yes" if prove else "no",
        "most": str(_MOST),
        "most_megabytes": str(_MOST_MEGABYTES),
    }
    assignments = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
    files = {"bin/python": _resource("executor/launcher.sh").replace("# @values@", assignments)}
    if scheme == "spark":
        files["bin/pull"] = _resource("executor/fetch_from_driver.sh")
    files["bin/inflate"] = _resource("executor/gunzip_sha256.py")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in files.items():
            content = text.encode()
            entry: Any = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _as_shell_reads_it(source: str) -> str:
    if source.startswith("file:"):
        return unquote(urlsplit(source).path)
    # curl reads it between double quotes.
    return source.translate({ord('"'): "%22", ord("\\"): "%5C"})


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
