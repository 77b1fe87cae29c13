"""Runs in the Python of Spark's driver, pickled by value: makes an environment's packages importable there."""

from __future__ import annotations

import fcntl
import json
import os
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
    :return: `session` (its directory), and `paths`, `variables` and `interpreter`, or `error` if it can't be used.
    """
    from pyspark import SparkFiles

    session = Path(SparkFiles.getRootDirectory()).absolute()
    found: dict[str, Any] = {"session": str(session)}
    if not interpreter:
        return found
    found["interpreter"] = str(session / interpreter)
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


def unpickle(pickled: bytes, found: dict[str, Any]) -> Any:
    """Unpickle a function or class that Spark runs on the driver. On executors, nothing is changed.

    :param found: what `find_environment` returned.
    """
    from pyspark import TaskContext
    from pyspark.cloudpickle import loads

    if TaskContext.get() is None:
        _use(found)
    return loads(pickled)


def _use(found: dict[str, Any]) -> None:
    from pyspark.serializers import CloudPickleSerializer
    from pyspark.sql.datasource import DataSource, DataSourceWriter

    session = Path(found["session"])
    os.environ[SESSION_DIRECTORY] = str(session)
    # Spark adds them for `analyze` and data sources, but not for `foreachBatch`.
    files = [session, *(file for file in session.glob("*") if file.suffix in (".zip", ".egg", ".jar"))]
    _prepend([str(file) for file in files])
    if "paths" not in found:
        return
    _hold(found)
    # The process may have run a function in another environment of the session.
    used: set[str] = getattr(sys, "_sparkdeps_paths", set())
    for path in used.difference(found["paths"]):
        _forget(path)
    sys._sparkdeps_paths = {*found["paths"]}  # type: ignore[attr-defined]
    _prepend(found["paths"])
    os.environ.update(found["variables"])
    # The instances of a data source that this process pickles are unpickled by others.
    serializer: Any = CloudPickleSerializer
    dumps = getattr(serializer, "_sparkdeps_dumps", serializer.dumps)
    serializer._sparkdeps_dumps = dumps

    def wrapping_dumps(self: Any, value: Any) -> Any:
        is_source = isinstance(value, (DataSource, DataSourceWriter))
        return dumps(self, _Wrapped(dumps(self, value), found) if is_source else value)

    serializer.dumps = wrapping_dumps


class _Wrapped:
    def __init__(self, pickled: bytes, found: dict[str, Any]) -> None:
        self._arguments = (pickled, found)

    def __reduce__(self) -> tuple[Any, Any]:
        return unpickle, self._arguments


def _prepend(paths: list[str]) -> None:
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]


def _forget(path: str) -> None:
    sys.path[:] = [each for each in sys.path if each != path]
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{path}/"):
            del sys.modules[name]


def _hold(found: dict[str, Any]) -> None:
    """Keep the environment from being removed while this process runs. Unpack it again if it was."""
    cache = Path(found["session"]).parent / "sparkdeps"
    for path in found["paths"]:
        if path.startswith(f"{cache}/"):
            digest = Path(path).relative_to(cache).parts[0]
            # The descriptor stays open.
            fcntl.flock(os.open(cache / f".{digest}.used", os.O_RDONLY | os.O_CREAT), fcntl.LOCK_SH)
            break
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
