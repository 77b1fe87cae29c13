"""Runs in the Python of Spark's driver, pickled by value: makes an environment's packages importable there."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SESSION_DIRECTORY = "SPARKDEPS_SESSION_DIRECTORY"
"""Environment variable with the session's directory on the driver, for broadcast values."""
# Seconds: to fetch, verify and unpack an environment.
_UNPACK_TIMEOUT = 1800
# Variables that a shell sets or that belong to one process.
_OWN_VARIABLES = {"_", "OLDPWD", "PWD", "PYTHONNOUSERSITE", "PYTHONPATH", "SHLVL"}
_PY_FILES = (".py", ".zip", ".egg", ".jar")
_UNPACKED = re.compile(r"(.*/sparkdeps)/([0-9a-f]{12,})/")
# The interpreter of the environment runs this.
_DESCRIBE = """
import json, os, sys, sysconfig
standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
standard += [os.path.join(each, "lib-dynload") for each in standard]
paths = [path for path in sys.path if os.path.exists(path) and path not in standard]
print(json.dumps({"python": "%d.%d" % sys.version_info[:2], "paths": paths, "variables": dict(os.environ)}))
"""


def find_environment(interpreter: str) -> dict[str, Any]:
    """Unpack an environment on the driver, and return where its packages are.

    :param interpreter: path of the session's interpreter, relative to the session's directory; empty for none.
    :return: `session` (its directory), `relative` (the interpreter), and `paths`, `variables` and `interpreter`, or
        `error` if it can't be used.
    """
    from pyspark import SparkFiles

    session = Path(SparkFiles.getRootDirectory()).absolute()
    found: dict[str, Any] = {"session": str(session), "relative": interpreter}
    if not interpreter:
        return found
    # On executors, Spark starts some workers in the executor's directory.
    start = session if (session / interpreter).exists() else Path.cwd()
    found["interpreter"] = str(start / interpreter)
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        described = _run(found, environ, "-c", _DESCRIBE)
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return {**found, "error": lines[-1] if lines else str(error)}
    environment = json.loads(described)
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if environment["python"] != own:
        return {**found, "error": f"the driver has Python {own}, and the environment has {environment['python']}"}
    variables = environment["variables"].items()
    changed = {name: value for name, value in variables if environ.get(name) != value and name not in _OWN_VARIABLES}
    return {**found, "paths": environment["paths"], "variables": changed}


def unpickle(pickled: bytes, found: dict[str, Any], everywhere: bool) -> Any:
    """Unpickle a function or class that Spark runs on the driver, or on executors in the cluster's own Python.

    :param found: what `find_environment` returned on the driver.
    :param everywhere: whether executors use the cluster's own Python for it. If not, nothing is changed there.
    """
    from pyspark import TaskContext
    from pyspark.cloudpickle import loads

    if TaskContext.get() is None:
        os.environ[SESSION_DIRECTORY] = found["session"]
        _use(found)
    elif everywhere:
        _use(_find_on_executor(found["relative"]))
    return loads(pickled)


def _find_on_executor(interpreter: str) -> dict[str, Any]:
    known: dict[str, dict[str, Any]] = sys.__dict__.setdefault("_sparkdeps_found", {})
    if interpreter not in known:
        found = find_environment(interpreter)
        if "error" in found:
            raise RuntimeError(f"sparkdeps: the executor's own Python can't use the environment: {found['error']}")
        _prepend(_copy_py_files(found))
        known[interpreter] = found
    return known[interpreter]


def _copy_py_files(found: dict[str, Any]) -> list[str]:
    """Copy the session's py_files, as the launcher does, and return what to add to `sys.path`.

    Spark does not add them where it starts workers in the executor's directory. Launchers remove copies of processes
    that have ended.
    """
    unpacked = next(filter(None, map(_UNPACKED.match, found["paths"])), None)
    if unpacked is None:
        return []
    cache = Path(unpacked[1])
    launchers = cache.parent.glob(f"*/{found['relative']}")
    files = [file for launcher in launchers for file in launcher.parents[3].iterdir() if file.suffix in _PY_FILES]
    copies = cache / f".files.{os.getpid()}"
    copies.mkdir(exist_ok=True)
    paths = [str(copies)]
    for file in files:
        if not (copy := copies / file.name).exists():
            shutil.copy(file, copy)
            paths += [str(copy)] if file.suffix != ".py" else []
    return paths


def _use(found: dict[str, Any]) -> None:
    from pyspark.serializers import CloudPickleSerializer
    from pyspark.sql.datasource import DataSource, DataSourceWriter

    session = Path(found["session"])
    # Spark adds them for `analyze` and data sources, but not for `foreachBatch`. Of two versions, the last one counts.
    files = [file for file in session.glob("*") if file.suffix in _PY_FILES and file.suffix != ".py"]
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    _prepend([str(session), *map(str, files)])
    if "paths" not in found:
        return
    _hold(found)
    _prepend(found["paths"])
    os.environ.update(found["variables"])
    # The instances of a data source that this process pickles are unpickled by others.
    serializer: Any = CloudPickleSerializer
    dumps = getattr(serializer, "_sparkdeps_dumps", serializer.dumps)
    serializer._sparkdeps_dumps = dumps

    def wrapping_dumps(self: Any, value: Any) -> Any:
        is_source = isinstance(value, (DataSource, DataSourceWriter))
        return dumps(self, _Wrapped(dumps(self, value), found, False) if is_source else value)

    serializer.dumps = wrapping_dumps


class _Wrapped:
    def __init__(self, pickled: bytes, found: dict[str, Any], everywhere: bool) -> None:
        self._arguments = (pickled, found, everywhere)

    def __reduce__(self) -> tuple[Any, Any]:
        return unpickle, self._arguments


def _prepend(paths: list[str]) -> None:
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]


def _hold(found: dict[str, Any]) -> None:
    """Keep the environment from being removed while this process runs. Unpack it again if it was."""
    held: dict[str, int] = sys.__dict__.setdefault("_sparkdeps_held", {})
    for path in found["paths"]:
        unpacked = _UNPACKED.match(path)
        if unpacked and unpacked[0] not in held:
            # The descriptor stays open.
            used = os.open(f"{unpacked[1]}/.{unpacked[2]}.used", os.O_RDONLY | os.O_CREAT)
            fcntl.flock(used, fcntl.LOCK_SH)
            held[unpacked[0]] = used
    if not all(map(os.path.exists, found["paths"])):
        _run(found, dict(os.environ), "-c", "")


def _run(found: dict[str, Any], environ: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [found["interpreter"], *arguments],
        cwd=found["session"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=_UNPACK_TIMEOUT,
    ).stdout
