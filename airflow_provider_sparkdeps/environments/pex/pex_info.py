"""PEX files: what one says of itself, how it is taken apart, and how one is made of a venv."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from typing import BinaryIO

from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline
from airflow_provider_sparkdeps.utils.processes import started, tool_environ
from airflow_provider_sparkdeps.utils.text import one_screen

INTERPRETER = "bin/python"
PEX = "app.pex"
_ELF = b"\x7fELF"
# A scie ends with its manifest, a JSON object, of some kilobytes.
_SCIE_TAIL, _SCIE_MARK = 1 << 18, b'"scie"'
_MINORS = range(6, 30)
# It gets ready while uv still fills the venv, until its stdin is closed. The last thing that pex does is to copy its
# tree, in which each package is a link into its cache. That takes half of the time of the whole, and this cache is
# thrown away: so what the links lead to is moved instead.
_MOVING = """
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
    pass  # It will say so itself, in its own words.
sys.stdin.read()
runpy.run_module("pex", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class PexInfo:
    """What a PEX says of itself.

    :param scie: whether it brings an interpreter.
    :param constraints: on the interpreter, such as "CPython==3.12.*"; one of them must be met, if there are any.
    :param wheels: file names of the wheels that it holds; for each package one or, for several platforms, more.
    """

    scie: bool
    constraints: tuple[str, ...]
    wheels: tuple[str, ...]

    @property
    def packages(self) -> frozenset[str]:
        """The canonical names of the packages in it."""
        from packaging.utils import parse_wheel_filename

        return frozenset(parse_wheel_filename(wheel)[0] for wheel in self.wheels)

    def obstacle(self, minor: str) -> str | None:
        """Return what keeps a minor version of Python, such as "3.12", from running it; None when nothing does."""
        from packaging.utils import parse_wheel_filename

        number = int(minor.split(".")[1])
        if self.constraints and not any(_meets(constraint, minor) for constraint in self.constraints):
            return f"its interpreter constraints are {' or '.join(self.constraints)}"
        fitting: dict[str, bool] = {}
        for wheel in self.wheels:
            name, _, _, tags = parse_wheel_filename(wheel)
            fits = any(_fits(tag.interpreter, tag.abi, number) for tag in tags)
            fitting[name] = fitting.get(name, False) or fits
        without = next((name for name, fits in fitting.items() if not fits), None)
        if without is None:
            return None
        wheels = [wheel for wheel in self.wheels if parse_wheel_filename(wheel)[0] == without]
        return f"of {without} it has {' and '.join(wheels)}"

    @property
    def pythons(self) -> str:
        """The versions of Python that can run it, as far as it says, such as "3.12" or "3.11 to 3.13"."""
        minors = [number for number in _MINORS if self.obstacle(f"3.{number}") is None]
        if not minors:
            return "none that is known"
        first, last = minors[0], minors[-1]
        if last == _MINORS[-1]:
            return f"3.{first} and later"
        return f"3.{first}" if first == last else f"3.{first} to 3.{last}"


def _is_wheel(name: str) -> bool:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        parse_wheel_filename(name)
    except InvalidWheelFilename:
        return False
    return True


def _meets(constraint: str, minor: str) -> bool:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        # "CPython>=3.11", or only ">=3.11"; "CPython+t" and its like are for pex to tell.
        requirement = Requirement(constraint if constraint[:1].isalpha() else f"CPython{constraint}")
    except InvalidRequirement:
        return True
    return any(requirement.specifier.contains(f"{minor}.{patch}") for patch in range(100))


def _fits(interpreter: str, abi: str, number: int) -> bool:
    if not interpreter[2:].isdigit() or interpreter[2] != "3":
        return False
    minor = int(interpreter[3:] or 0)
    older_will_do = interpreter.startswith("py") or abi == "abi3"
    return interpreter[:2] in ("py", "cp") and (minor == number or (older_will_do and minor <= number))


def sha256(path: Path) -> str:
    """Return the hex sha256 of a file's contents.

    :raises InvalidArgumentError: when it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidArgumentError(
            f"The PEX {path} can't be read: {error.strerror}. Give the path of a file that is there for every process"
            " that uses the environment: the DAG processor, the workers and the triggerer."
        ) from error


def read_info(path: Path) -> PexInfo:
    """Return what a PEX file says of itself.

    :raises InvalidArgumentError: when it isn't one.
    """
    with path.open("rb") as file:
        native = file.read(len(_ELF)) == _ELF
        scie = native and _SCIE_MARK in _tail(file)
    try:
        with zipfile.ZipFile(path) as archive:
            facts = json.loads(archive.read("PEX-INFO"))
            constraints, wheels = facts.get("interpreter_constraints") or (), facts.get("distributions") or ()
            wheels = tuple(sorted(filter(_is_wheel, wheels)))
            return PexInfo(scie=scie, constraints=tuple(map(str, constraints)), wheels=wheels)
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError) as error:
        if scie:
            # The PEX lies deeper in it.
            return PexInfo(scie=True, constraints=(), wheels=())
        kind = "a native program, but no scie" if native else "no zip file with a PEX-INFO in it"
        raise InvalidArgumentError(
            f"{path} is not a PEX: it is {kind}. Make one file with `pex pandas pyarrow -o {path.name}`"
            " (--layout zipapp, which is the default), or with --scie eager for one that brings its Python."
        ) from error


def _tail(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    file.seek(max(0, size - _SCIE_TAIL))
    return file.read()


def unpack(path: Path, target: Path, *, deadline: Deadline) -> None:
    """Take a zipapp apart into a directory, which pex calls its loose layout and runs just the same.

    Executors would otherwise unpack it once more, and each Python process would read the whole zip's directory.
    """
    links: dict[Path, str] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            deadline.left(f"unpacking {path.name}")
            placed = Path(archive.extract(entry, target))
            mode = entry.external_attr >> 16
            if stat.S_ISLNK(mode):
                links[placed] = placed.read_text()
            elif not entry.is_dir() and mode & stat.S_IXUSR:
                placed.chmod(0o755)
    # Last, so that nothing is written through them.
    for placed, link in links.items():
        placed.unlink()
        placed.symlink_to(link)


def require_pex() -> None:
    """Raise a `BuildError` if pex is not installed."""
    if util.find_spec("pex") is None:
        raise BuildError(
            "Making a PEX needs the package pex, which this worker's Python doesn't have."
            " Install it: pip install 'airflow-provider-sparkdeps[pex]'"
        )


@contextlib.contextmanager
def making_pex(venv: Path, target: Path, *, scratch: Path, deadline: Deadline) -> Iterator[Callable[[], None]]:
    """Start pex, and give a function that makes a PEX, in its loose layout, of all that is installed in a venv by then.

    :param venv: of any Python that pex knows; it needn't exist yet.
    :param target: the directory to make.
    :param scratch: an existing directory for pex's caches, which would otherwise grow without bounds.
    :param deadline: of the build.
    :raises BuildError: by that function, with pex's own words.
    """
    environ = tool_environ(PEX_ROOT=str(scratch / "pex-root"), TMPDIR=str(scratch))
    options = ["--venv-repository", str(venv), "--layout", "loose", "--no-compile", "--no-use-system-time"]
    command = [sys.executable, "-P", "-c", _MOVING, *options, "--output-file", str(target)]
    with started(command, deadline=deadline, cwd=scratch, environ=environ) as finish:

        def make() -> None:
            done = finish()
            if done.code != 0:
                raise BuildError(f"pex could not put the packages into a PEX. It says:\n\n{one_screen(done.stderr)}")

        yield make


def add_interpreter(prefix: Path, *, name: str, minor: str, scie: bool) -> None:
    """Write the script that runs a prefix's PEX as a Python interpreter.

    :param prefix: the directory that holds the PEX.
    :param name: of the PEX, for the script's error.
    :param minor: version of the Python that it looks for on PATH.
    :param scie: whether it needn't.
    """
    values = {"name": name, "version": minor, "scie": "yes" if scie else "no"}
    assignments = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
    template = resources.files(__package__).joinpath("executor/python.sh").read_text(encoding="utf-8")
    script = prefix / INTERPRETER
    script.parent.mkdir(parents=True)
    script.write_text(template.replace("# @values@", assignments), encoding="utf-8")
    script.chmod(0o755)


def take_scie(path: Path, target: Path) -> None:
    """Copy a scie, which unpacks itself."""
    shutil.copyfile(path, target)
    target.chmod(0o755)
