"""Finds the CPythons of this machine that an environment can be built on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.platforms import current_python
from airflow_provider_sparkdeps.utils.processes import run, tool_environ
from airflow_provider_sparkdeps.utils.text import shorten_output

_PROBE = """
import json, os, platform, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": platform.python_version(),
    "standard": sys.implementation.name == "cpython" and not getattr(sys, "abiflags", ""),
    "prefix": sys.base_prefix,
    "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
    "platstdlib": sysconfig.get_path(
        "platstdlib", vars={"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}),
    "libraries": [
        os.path.join(sys.base_prefix, "lib"),
        os.path.join(sys.base_prefix, "lib64"),
        sysconfig.get_config_var("LIBDIR") or "",
        os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("MULTIARCH") or ""),
    ],
}))
"""


@dataclass(frozen=True)
class BasePython:
    """An installed CPython.

    :param executable: its real binary, not a symlink or a venv.
    :param version: in full, such as "3.12.1".
    :param prefix: where it is installed, such as "/usr".
    :param stdlib: directory of the standard library.
    :param platstdlib: directory of `lib-dynload`.
    :param libraries: directories where its shared libraries may be.
    """

    executable: Path
    version: str
    prefix: Path
    stdlib: Path
    platstdlib: Path
    libraries: tuple[Path, ...]

    @property
    def minor(self) -> str:
        """The minor version, such as "3.12"."""
        return ".".join(self.version.split(".")[:2])


def find_python(minor: str, *, uv: Path, deadline: Deadline) -> BasePython:
    """Find a CPython: the worker's, one on PATH, or one that pyenv or uv installed.

    :param minor: such as "3.12".
    :param uv: the uv binary.
    :param deadline: of the build.
    :raises BuildError: if there is none; with those that were found.
    """
    found = _find_first(minor, uv, deadline)
    if found is None and os.environ.get("UV_PYTHON_DOWNLOADS") == "automatic":
        install = run([uv, "python", "install", minor], deadline=deadline)
        if install.code != 0:
            raise BuildError(f"uv could not fetch Python {minor}. Its output:\n\n{shorten_output(install.stderr)}")
        found = _find_first(minor, uv, deadline)
    if found is None:
        installed = [f"{python.version} ({python.executable})" for python in _installed(uv, deadline)]
        raise BuildError(
            f"There is no CPython {minor} on this machine: found {', '.join(installed) or 'none'}. Install it,"
            f' for example with `uv python install {minor}`, or set python="{current_python()}" (the worker\'s version,'
            " which is the default)."
        )
    return found


def _find_first(minor: str, uv: Path, deadline: Deadline) -> BasePython | None:
    for candidate in _candidates(minor, uv, deadline):
        python = inspect_python(candidate, deadline=deadline)
        if python is not None and python.minor == minor:
            return python
    return None


def _installed(uv: Path, deadline: Deadline) -> list[BasePython]:
    found = {}
    for candidate in _candidates("3.*", uv, deadline):
        python = inspect_python(candidate, deadline=deadline)
        if python is not None:
            found[python.executable] = python
    return sorted(found.values(), key=lambda python: _numbers(python.version), reverse=True)


def _candidates(minor: str, uv: Path, deadline: Deadline) -> Iterator[Path]:
    own = getattr(sys, "_base_executable", None) or sys.executable
    if minor in (current_python(), "3.*"):
        yield Path(own)
    for entry in filter(None, os.environ.get("PATH", "").split(os.pathsep)):
        directory = Path(entry)
        if directory.name == "shims":
            # A version manager's shim only runs versions that are activated, but others may be installed.
            yield from _newest_first(directory.parent.glob(f"versions/{minor}.*/bin/python{minor}"))
        else:
            yield from _newest_first(directory.glob(f"python{minor}"))
    listed = run([uv, "python", "dir"], deadline=deadline)
    if listed.code == 0:
        yield from _newest_first(Path(listed.stdout.strip()).glob(f"cpython-{minor}.*/bin/python{minor}"))


def _newest_first(paths: Iterator[Path]) -> list[Path]:
    interpreters = [path for path in paths if re.fullmatch(r"python3\.\d+", path.name)]
    return sorted(interpreters, key=lambda path: _numbers(str(path)), reverse=True)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def inspect_python(executable: Path, *, deadline: Deadline) -> BasePython | None:
    """Return where an interpreter is installed; None if it does not work, or is not a standard CPython."""
    try:
        answer = subprocess.run(
            [executable, "-I", "-S", "-B", "-c", _PROBE],
            capture_output=True,
            timeout=min(deadline.left(), 10),
            env=tool_environ(),
            check=True,
        ).stdout
        facts = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    if not facts["standard"]:
        return None
    libraries = dict.fromkeys(Path(os.path.normpath(each)) for each in facts["libraries"] if each)
    return BasePython(
        executable=Path(facts["executable"]),
        version=facts["version"],
        prefix=Path(facts["prefix"]),
        stdlib=Path(facts["stdlib"]),
        platstdlib=Path(facts["platstdlib"]),
        libraries=tuple(libraries),
    )
