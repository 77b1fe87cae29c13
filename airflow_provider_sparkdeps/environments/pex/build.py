"""The steps of building a PEX: packages from uv go into a venv, and pex makes a PEX of it."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix import site_packages
from airflow_provider_sparkdeps.environments.venv.build import UvBuilder
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import start, tool_environ
from airflow_provider_sparkdeps.utils.text import shorten_output

INTERPRETER = "bin/python"
PEX = "app.pex"
# It imports pex while uv still fills the venv, and continues when its stdin is closed. At the end, pex copies its tree,
# in which each package is a link into its cache. That takes half of the total time. Since this cache is removed
# afterwards, the targets of the links are moved instead.
_PEX_WITHOUT_COPIES = """
import os, runpy, shutil, sys
cache = os.path.realpath(os.environ["PEX_ROOT"]) + os.sep
copytree = shutil.copytree
def move(source, target, *args, **named):
    moved = {}
    for name in os.listdir(source):
        path = os.path.join(source, name)
        real = os.path.realpath(path)
        if os.path.islink(path) and real.startswith(cache):
            moved[name] = real
            os.unlink(path)
    copytree(source, target, *args, **named)
    for name, real in moved.items():
        os.rename(real, os.path.join(target, name))
    return target
shutil.copytree = move
sys.argv[0] = "pex"
try:
    import pex.bin.pex
    from pex.interpreter import PythonInterpreter
    PythonInterpreter.get()
except Exception:
    pass  # pex reports it when it runs.
sys.stdin.read()
runpy.run_module("pex", run_name="__main__", alter_sys=True)
"""


@dataclass(eq=False)
class PexBuilder(UvBuilder):
    """Builds a PEX from requirements or a lock file."""

    def install(self, prefix: Path) -> None:
        """Install the packages into a venv, and make a PEX of it."""
        _require_pex()
        venv = self.scratch / "venv"
        with start_pex(venv, prefix / PEX, scratch=self.scratch, deadline=self.context.deadline) as make_pex:
            super().install(venv)
            self.packages = site_packages.installed(venv)
            self.context.report("relocate", f"packages: {len(self.packages)}, from a venv into a PEX")
            prefix.mkdir()
            make_pex()

    def relocate(self, prefix: Path) -> BuiltPrefix:
        """Add the script that runs the PEX as an interpreter."""
        add_interpreter(prefix, name="this PEX", minor=self.base.minor, scie=False)
        return BuiltPrefix(
            python=self.base.version,
            interpreter=INTERPRETER,
            packages=self.packages,
            lock=self.lock,
            host_path=str(self.base.executable.parent),
        )


def _require_pex() -> None:
    """Raise a BuildError if pex is not installed."""
    if util.find_spec("pex") is None:
        raise BuildError(
            "Building a PEX needs the package pex, which is not installed for this worker's Python."
            " Run `pip install 'airflow-provider-sparkdeps[pex]'`."
        )


@contextlib.contextmanager
def start_pex(venv: Path, target: Path, *, scratch: Path, deadline: Deadline) -> Iterator[Callable[[], None]]:
    """Start pex, and yield a function that makes a PEX, in its loose layout, of what is installed in a venv by then.

    :param venv: of any Python that pex supports. It does not need to exist yet.
    :param target: the directory of the PEX.
    :param scratch: an existing directory for pex's caches, which would otherwise grow without bounds.
    :param deadline: of the build.
    :raises BuildError: by that function, if pex fails; with its output.
    """
    environ = tool_environ(PEX_ROOT=str(scratch / "pex-root"), TMPDIR=str(scratch))
    options = ["--venv-repository", str(venv), "--layout", "loose", "--no-compile", "--no-use-system-time"]
    command = [sys.executable, "-P", "-c", _PEX_WITHOUT_COPIES, *options, "--output-file", str(target)]
    with start(command, deadline=deadline, cwd=scratch, environ=environ) as finish:

        def make() -> None:
            done = finish()
            if done.code != 0:
                raise BuildError(f"pex could not make a PEX. Its output:\n\n{shorten_output(done.stderr)}")

        yield make


def add_interpreter(prefix: Path, *, name: str, minor: str, scie: bool) -> None:
    """Write the script that runs the PEX in a prefix as a Python interpreter.

    :param prefix: the directory of the PEX.
    :param name: of the PEX, for the script's error.
    :param minor: version of the Python on PATH that runs it.
    :param scie: whether it has its own Python instead.
    """
    values = {"name": name, "version": minor, "scie": "yes" if scie else "no"}
    assignments = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
    template = resources.files(__package__).joinpath("executor/python.sh").read_text(encoding="utf-8")
    script = prefix / INTERPRETER
    script.parent.mkdir(parents=True)
    script.write_text(template.replace("# @values@", assignments), encoding="utf-8")
    script.chmod(0o755)
