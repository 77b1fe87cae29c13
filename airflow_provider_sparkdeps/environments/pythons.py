"""Finding the CPythons of this machine that an environment can be built on."""

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
from airflow_provider_sparkdeps.utils.text import one_screen

_PROBE = """
import json, os, platform, sys, sysconfig
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "version": platform.python_version(),
    "plain": sys.implementation.name == "cpython" and not getattr(sys, "abiflags", ""),
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

    :param executable: its real binary, no symlink and no venv.
    :param version: in full, such as "3.12.1".
    :param prefix: where it is installed; "/usr" for a distribution's.
    :param stdlib: directory of the standard library.
    :param platstdlib: directory that holds `lib-dynload`.
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
        """Such as "3.12"."""
        return ".".join(self.version.split(".")[:2])


def find_python(minor: str, *, uv: Path, deadline: Deadline) -> BasePython:
    """Find a CPython: the worker's own, on PATH, or in the places of pyenv and uv.

    :param minor: such as "3.12".
    :param uv: the uv binary.
    :param deadline: of the build.
    :raises BuildError: when there is none; says which there are.
    """
    found = _first(minor, uv, deadline)
    if found is None and os.environ.get("UV_PYTHON_DOWNLOADS") == "automatic":
        install = run([uv, "python", "install", minor], deadline=deadline)
        if install.code != 0:
            raise BuildError(f"uv could not fetch Python {minor}. Its output:\n\n{one_screen(install.stderr)}")
        found = _first(minor, uv, deadline)
    if found is None:
        have = [f"{python.version} ({python.executable})" for python in _installed(uv, deadline)]
        raise BuildError(
            f"There is no CPython {minor} on this machine; it has {', '.join(have) or 'none that starts'}."
            f' Install it (such as with `uv python install {minor}`), or wish for python="{current_python()}",'
            " or leave python out: executors need the same minor version as the worker that pickles UDFs."
        )
    return found


def _first(minor: str, uv: Path, deadline: Deadline) -> BasePython | None:
    for candidate in _candidates(minor, uv, deadline):
        python = probe(candidate, deadline=deadline)
        if python is not None and python.minor == minor:
            return python
    return None


def _installed(uv: Path, deadline: Deadline) -> list[BasePython]:
    found = {}
    for candidate in _candidates("3.*", uv, deadline):
        python = probe(candidate, deadline=deadline)
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
            # Version managers' shims refuse versions that are installed but not switched on.
            yield from _newest_first(directory.parent.glob(f"versions/{minor}.*/bin/python{minor}"))
        else:
            yield from _newest_first(directory.glob(f"python{minor}"))
    listed = run([uv, "python", "dir"], deadline=deadline)
    if listed.code == 0:
        yield from _newest_first(Path(listed.stdout.strip()).glob(f"cpython-{minor}.*/bin/python{minor}"))


def _newest_first(paths: Iterator[Path]) -> list[Path]:
    plain = [path for path in paths if re.fullmatch(r"python3\.\d+", path.name)]
    return sorted(plain, key=lambda path: _numbers(str(path)), reverse=True)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def probe(executable: Path, *, deadline: Deadline) -> BasePython | None:
    """Ask an interpreter where it is installed; None when it doesn't start or isn't a plain CPython."""
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
    if not facts["plain"]:
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
