"""Proof that a prefix works where it has been moved to, before others get to use it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.site_packages import installed
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import run
from airflow_provider_sparkdeps.utils.text import shorten_output

# Module -> the extension behind it, which not every CPython was built with; where it is there, it must work.
_MODULES = {
    **dict.fromkeys(("json", "pickle", "socket", "subprocess", "hashlib", "zlib", "decimal", "multiprocessing")),
    **{"ctypes": "_ctypes", "ssl": "_ssl", "sqlite3": "_sqlite3", "bz2": "_bz2", "lzma": "_lzma"},
}

_SCRIPT = """
import importlib, importlib.metadata, importlib.util, json, os, platform, re, sys
modules, packages = json.loads(sys.argv[1])
broken = {}
for name, extension in modules.items():
    if extension is None or importlib.util.find_spec(extension):
        try:
            importlib.import_module(name)
        except ImportError as error:
            broken[name] = str(error)
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
if packages is None:
    packages = sorted({re.sub("[-_.]+", "-", each.name).lower() for each in importlib.metadata.distributions()})
try:
    with open("/proc/self/maps") as maps:
        mapped = sorted({line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line})
except OSError:
    mapped = []
print(json.dumps({
    "prefix": os.path.realpath(sys.prefix),
    "python": platform.python_version(),
    "path": [os.path.realpath(entry) for entry in sys.path],
    "broken": broken,
    "packages": {name: version(name) for name in packages},
    "mapped": mapped,
}))
"""
_SYSTEM_LIBRARIES = ("/lib", "/usr")


def verify_prefix(prefix: Path, built: BuiltPrefix, *, deadline: Deadline) -> None:
    """Run a prefix's interpreter, away from where it was built and with nothing of this process around it.

    :param prefix: where it has been moved to.
    :param built: what it should be.
    :param deadline: of the build.
    :raises BuildError: when it is not what it should be.
    """
    prefix = Path(os.path.realpath(prefix))
    if built.interpreter is None:
        _compare_packages(installed(prefix), built)
        return
    if built.host_path is not None:
        found = ask(prefix, built.interpreter, names=built.packages, host_path=built.host_path, deadline=deadline)
        if found["python"] != built.python:
            raise BuildError(f"What was built runs Python {found['python']}; it should run Python {built.python}.")
        _compare_packages(found["packages"], built)
        return
    found = ask(prefix, built.interpreter, names=built.packages, deadline=deadline)
    if found["prefix"] != str(prefix) or found["python"] != built.python:
        raise BuildError(
            f"The interpreter that was built is Python {found['python']} at {found['prefix']} when run from {prefix};"
            f" it should be Python {built.python} at the place that it was moved to."
        )
    outside = [path for path in found["path"] if not Path(path).is_relative_to(prefix)]
    allowed = (str(prefix), *_SYSTEM_LIBRARIES)
    outside += [path for path in found["mapped"] if not path.startswith(allowed) and ".so" in path]
    if outside:
        raise BuildError(
            f"The interpreter that was built still uses files of this machine: {', '.join(outside[:5])}."
            " Build on another Python, such as one of uv or pyenv, or set bundle_python=False."
        )
    if found["broken"]:
        reasons = "; ".join(f"{name}: {error}" for name, error in found["broken"].items())
        raise BuildError(f"Modules of the standard library don't work in the environment that was built: {reasons}.")
    _compare_packages(found["packages"], built)


def ask(
    prefix: Path, interpreter: str, *, names: Iterable[str] | None, deadline: Deadline, host_path: str | None = None
) -> dict[str, Any]:
    """Run a prefix's interpreter, and return what it says of itself: its Python, path, modules and packages.

    :param prefix: where it is.
    :param interpreter: its path relative to the prefix.
    :param names: of the packages whose versions are asked for; None for all that it finds.
    :param deadline: of the build.
    :param host_path: as in `BuiltPrefix`.
    :raises BuildError: when it doesn't run, or doesn't import what Spark gives to it.
    """
    question = json.dumps([_MODULES, None if names is None else sorted(names)])
    command = [str(prefix / interpreter), "-I", "-B", "-c", _SCRIPT, question]
    environ = {"PATH": "/nonexistent"}
    if host_path is not None:
        # As Spark starts it: -I would take away the PYTHONPATH by which pyspark comes.
        command[1:3] = []
        given = str(prefix.parent)
        environ = {"PATH": host_path, "PYTHONPATH": given, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
    done = run(command, deadline=deadline, cwd=Path("/"), environ=environ)
    if done.code != 0:
        raise BuildError(f"The interpreter that was built doesn't run. Its output:\n\n{shorten_output(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout)
    if host_path is not None and given not in found["path"]:
        raise BuildError(
            "What was built doesn't import from PYTHONPATH, by which Spark brings pyspark. Build the PEX anew with a"
            " recent pex, without options that close it off."
        )
    return found


def _compare_packages(found: dict[str, str], built: BuiltPrefix) -> None:
    lost = sorted(name for name, version in built.packages.items() if found.get(name) != version)
    if lost:
        raise BuildError(f"The environment that was built doesn't find these packages of its own: {', '.join(lost)}.")
