"""The launcher archive, which a session is sent for an environment: its `bin/python` unpacks and runs the real one."""

from __future__ import annotations

import gzip
import io
import shlex
import tarfile
from enum import StrEnum
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from airflow_provider_sparkdeps.environments.context import PREFIX_TOKEN

if TYPE_CHECKING:
    from airflow_provider_sparkdeps.archives import Archive

EXECUTOR_SCHEMES = ("file", "http", "https", "spark")
"""Schemes of URIs from which executors can fetch a payload without Spark's help."""

# What an executor keeps unpacked. The least recently used environments are removed first.
_MAX_ENVS = 12
_MAX_MEGABYTES = 20_000
# Launchers of sessions, of a few kilobytes.
_MAX_LAUNCHERS = 1000
# A daemon that has had no workers for so long ends. Spark starts another one in about a second.
_IDLE_SECONDS = 60.0


class Start(StrEnum):
    """The directory in which Spark starts a Python worker."""

    SESSION = "session"  # The directory of a session on an executor.
    EXECUTOR = "executor"  # Its parent: for window functions and for streams.


def launcher_archive(
    archive: Archive, uri: str | None = None, *, probe: bool = False, start: Start = Start.SESSION
) -> bytes:
    """Return a tar.gz with `bin/python`; the same arguments give the same bytes.

    :param archive: the environment whose interpreter it runs.
    :param uri: where executors fetch the payload if Spark does not bring it to them. Ignored unless its scheme is one
        of `EXECUTOR_SCHEMES`.
    :param probe: fetch the payload even on executors that have it unpacked, to find out whether they can.
    :param start: the directory in which it is started. The launcher is at `sparkdeps/NAME` there.
    """
    scheme = urlsplit(uri).scheme if uri else ""
    values = {
        "digest": archive.short_digest,
        "sha256": archive.sha256,
        "payload": archive.payload,
        "megabytes": str(int(archive.contents.unpacked_size / 1e6)),
        "interpreter": archive.interpreter or "bin/python",
        "version": archive.python_minor,
        "bundled": "yes" if archive.interpreter else "no",
        "post_unpack": archive.post_unpack_script or "",
        "scheme": scheme if scheme in EXECUTOR_SCHEMES else "",
        "uri": _for_shell(uri) if uri else "",
        "probe": "yes" if probe else "no",
        "start": start,
        "idle_seconds": str(_IDLE_SECONDS),
        "max_envs": str(_MAX_ENVS),
        "max_megabytes": str(_MAX_MEGABYTES),
        "max_launchers": str(_MAX_LAUNCHERS),
    }
    assignments = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
    exports = "\n".join(f"export {name}={_value(value)}" for name, value in sorted(archive.env_vars.items()))
    script = _script("launcher.sh").replace("# @values@", assignments).replace("# @exports@", exports)
    scripts = {"python": script}
    if scheme == "spark":
        scripts["fetch_from_driver"] = _script("fetch_from_driver.sh")
    for name in ("gunzip_sha256", "daemon"):
        scripts[name] = _script(f"{name}.py")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, script in scripts.items():
            content = script.encode()
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def _value(value: str) -> str:
    return '"$env_dir"'.join(shlex.quote(part) if part else "" for part in value.split(PREFIX_TOKEN))


def _for_shell(uri: str) -> str:
    if uri.startswith("file:"):
        return unquote(urlsplit(uri).path)
    # curl reads the URI between double quotes.
    return uri.translate({ord('"'): "%22", ord("\\"): "%5C"})


def _script(name: str) -> str:
    return (resources.files(__package__) / "executor" / name).read_text(encoding="utf-8")
