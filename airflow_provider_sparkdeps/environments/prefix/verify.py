"""Runs the interpreter of a moved prefix, and compares its packages, before it is published."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.site_packages import installed
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import run
from airflow_provider_sparkdeps.utils.text import join_limited, shorten_output

# Modules and the extensions that they need. If a CPython was built with the extension, the module must work.
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
def name(distribution):
    try:
        return distribution.metadata["Name"] or ""
    except Exception:  # it has no metadata, and each version of Python raises another error
        return ""
if packages is None:
    names = filter(None, map(name, importlib.metadata.distributions()))
    packages = sorted({re.sub("[-_.]+", "-", each).lower() for each in names})
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
_OTHER_PYTHON = (
    "Build with another Python, for example one from uv or pyenv. A VenvEnvironment can also leave it out"
    " (bundle_python=False)."
)


def verify_prefix(prefix: Path, built: BuiltPrefix, *, deadline: Deadline) -> None:
    """Run the interpreter of a prefix that was moved, without the environment variables of this process.

    :param prefix: its new path.
    :param built: the result of the build.
    :param deadline: of the build.
    :raises BuildError: if it does not work, or differs from the result of the build.
    """
    prefix = Path(os.path.realpath(prefix))
    if built.interpreter is None:
        _compare_packages(installed(prefix), built)
        return
    if built.host_path is not None:
        found = query_interpreter(
            prefix, built.interpreter, names=built.packages, host_path=built.host_path, deadline=deadline
        )
        if found["python"] != built.python:
            raise BuildError(
                f"The built PEX runs Python {found['python']} instead of Python {built.python}: it selects another"
                " interpreter of this machine. Uninstall that Python, or set python to its minor version."
            )
        _compare_packages(found["packages"], built)
        return
    found = query_interpreter(prefix, built.interpreter, names=built.packages, deadline=deadline)
    if found["prefix"] != str(prefix) or found["python"] != built.python:
        raise BuildError(
            f"The built interpreter is not relocatable: after a move to {prefix}, it starts Python {found['python']} of"
            f" {found['prefix']} instead of its own Python {built.python}. {_OTHER_PYTHON}"
        )
    outside = [path for path in found["path"] if not Path(path).is_relative_to(prefix)]
    allowed = (str(prefix), *_SYSTEM_LIBRARIES)
    outside += [path for path in found["mapped"] if not path.startswith(allowed) and ".so" in path]
    if outside:
        raise BuildError(
            f"The built interpreter still uses files of this machine, which executors do not have:"
            f" {join_limited(outside)}. {_OTHER_PYTHON}"
        )
    if found["broken"]:
        reasons = "; ".join(f"{name}: {error}" for name, error in found["broken"].items())
        raise BuildError(
            f"Modules of the standard library cannot be imported in the built environment: {reasons}. Install the"
            f" system library that is missing on this machine, if one is named. {_OTHER_PYTHON}"
        )
    _compare_packages(found["packages"], built)


def query_interpreter(
    prefix: Path, interpreter: str, *, names: Iterable[str] | None, deadline: Deadline, host_path: str | None = None
) -> dict[str, Any]:
    """Run the interpreter of a prefix, and return its Python version, paths, broken modules and packages.

    :param prefix: its path.
    :param interpreter: path of the interpreter, relative to the prefix.
    :param names: of the packages to look up; None for all that are installed.
    :param deadline: of the build.
    :param host_path: as in `BuiltPrefix`.
    :raises BuildError: if it does not run, or ignores PYTHONPATH.
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
        output = shorten_output(done.stderr) or f"(none, exit code {done.code})"
        raise BuildError(
            f"The interpreter of the built environment does not run. Its output:\n\n{output}\n\nIf the output names a"
            " package, remove that or choose another version of it. Otherwise build with another Python."
        )
    found: dict[str, Any] = json.loads(done.stdout)
    if host_path is not None and given not in found["path"]:
        raise BuildError(
            "The PEX ignores PYTHONPATH, which Spark uses to provide pyspark. Build the PEX again with a recent pex,"
            " without options that isolate it."
        )
    return found


def _compare_packages(found: Mapping[str, str | None], built: BuiltPrefix) -> None:
    missing = [name for name, version in sorted(built.packages.items()) if found.get(name) != version]
    if missing:
        other = [f"{name} {found[name]} instead of {built.packages[name]}" for name in missing if found.get(name)]
        advice = (
            f"It has {join_limited(other)}, because the metadata of both is installed. If it is a copy, install these"
            " packages again in the original."
            if other
            else "Their metadata was removed after they were installed. Build it again."
        )
        raise BuildError(f"These packages are missing from the built environment: {join_limited(missing)}. {advice}")
