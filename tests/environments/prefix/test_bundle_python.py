"""Interpreters that are copied into a prefix: what they contain."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter
from airflow_provider_sparkdeps.environments.pythons import BasePython, inspect_python
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.build_contexts import build, run_python
from ...support.projects import digests, write

OWN = getattr(sys, "_base_executable", sys.executable)
# Of the test suite of the standard library.
TESTS = {"_ctypes_test", "_testbuffer", "_testcapi", "_testclinic", "_testclinic_limited", "_testexternalinspection",
         "_testimportmultiple", "_testinternalcapi", "_testlimitedcapi", "_testmultiphase", "_testsinglephase",
         "_xxtestfuzz", "xxlimited", "xxlimited_35", "test"}  # fmt: skip
SLIM = {"_tkinter", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo"}
FIND = """
import importlib.util, json, sys
names = sys.stdlib_module_names | {"idlelib", "lib2to3", "turtledemo", "test"}
is_found = lambda name: name in sys.builtin_module_names or importlib.util.find_spec(name)
print(json.dumps(sorted(filter(is_found, names))))
"""


def inspect(executable: str | Path) -> BasePython:
    base = inspect_python(Path(executable), deadline=Deadline(60, "Building for a test"))
    if base is None:
        pytest.skip(f"{executable} is not installed")
    return base


def bundle(base: BasePython, prefix: Path, *, slim: bool = False) -> Path:
    """Bundle an interpreter and move it."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "lib" / f"python{base.minor}" / "site-packages").mkdir(parents=True)
    bundle_interpreter(prefix, base, slim=slim)
    return prefix.rename(prefix.with_name(f"{prefix.name}-moved"))


def modules(executable: Path) -> set[str]:
    command: list[str | Path] = [executable, "-I", "-B", "-W", "ignore", "-c", FIND]
    return set(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.fixture(scope="module", params=[OWN, "/usr/bin/python3"])
def base(request: pytest.FixtureRequest) -> BasePython:
    return inspect(request.param)


@pytest.fixture(scope="module")
def whole(base: BasePython, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(base, tmp_path_factory.mktemp("whole") / "prefix")


@pytest.fixture
def bundled_base(whole: Path, tmp_path: Path) -> Path:
    """A bundled interpreter that a test can change and bundle again."""
    return Path(shutil.copytree(whole, tmp_path / "base", symlinks=True))


def test_all_modules_can_be_imported_but_the_test_suite(base: BasePython, whole: Path) -> None:
    there = modules(base.executable)
    assert modules(whole / "bin" / "python") - {"sitecustomize"} == there - TESTS - {"sitecustomize"}
    if "tkinter" in there:
        assert run_python(whole, "import tkinter; print(tkinter.Tcl().eval('expr 6*7'))") == "42"
    assert not [path for path in whole.rglob("*") if path.name == "__pycache__" or path.suffix in (".a", ".o")]


def test_a_slim_interpreter_lacks_what_is_documented(base: BasePython, whole: Path, tmp_path: Path) -> None:
    slim = bundle(base, tmp_path / "slim", slim=True)
    assert modules(slim / "bin" / "python") == modules(whole / "bin" / "python") - SLIM
    left_out = {each for each in digests(whole).keys() - digests(slim).keys() if "site-packages" not in each}
    library = f"lib/python{base.minor}"
    begins: tuple[str, ...] = (
        "include/",
        "lib/libt",
        "lib/tcl",
        "lib/tk",
        f"{library}/config-",
        f"{library}/lib-dynload/_tkinter",
    )
    begins += tuple(f"{library}/{name}{end}" for name in SLIM for end in ("/", ".py"))
    assert left_out
    assert not {each for each in left_out if not each.startswith(begins)}


def test_an_extension_can_be_compiled_with_it(whole: Path, tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    include = Path(run_python(whole, "import sysconfig; print(sysconfig.get_path('include'))"))
    assert include.is_relative_to(whole)
    if not (include / "Python.h").is_file():
        pytest.skip("the headers of this Python are not installed")
    # Debian's own pyconfig.h only includes others from /usr/include.
    assert "SIZEOF_VOID_P" in (include / "pyconfig.h").read_text()
    source = (
        '#include <Python.h>\nstatic struct PyModuleDef def = {PyModuleDef_HEAD_INIT, "made", 0, -1};\n'
        "PyMODINIT_FUNC PyInit_made(void) { return PyModule_Create(&def); }\n"
    )
    write(tmp_path / "made.c", source)
    subprocess.run(["gcc", "-shared", "-fPIC", f"-I{include}", "made.c", "-o", "made.so"], cwd=tmp_path, check=True)
    run_python(whole, f"import sys; sys.path.append({str(tmp_path)!r}); import made")
    makefile = Path(run_python(whole, "import sysconfig; print(sysconfig.get_makefile_filename())"))
    assert makefile.is_file()


def test_it_makes_virtualenvs_with_pip(base: BasePython, whole: Path, tmp_path: Path) -> None:
    if subprocess.call([base.executable, "-c", "import ensurepip, venv; ensurepip.version()"]):
        pytest.skip("this Python has no ensurepip")
    subprocess.run([whole / "bin" / "python", "-B", "-m", "venv", tmp_path / "venv"], env={}, check=True)
    pip = subprocess.run([tmp_path / "venv/bin/pip", "--version"], capture_output=True, text=True, check=True)
    assert str(tmp_path / "venv") in pip.stdout


def test_libraries_and_scripts_of_tcl_in_the_prefix_of_the_base_are_bundled(bundled_base: Path, tmp_path: Path) -> None:
    dynload = next(bundled_base.glob("lib/python3.*/lib-dynload"))
    libraries = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    folders = (libraries, Path("/usr/lib"), Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"))
    found = {name: path for name in ("tcl8.6", "tk8.6") for at in folders if (path := at / f"lib{name}.so").is_file()}
    scripts = next((path for path in map(Path, ("/usr/share/tcltk/tcl8.6", "/usr/lib/tcl8.6")) if path.is_dir()), None)
    if len(found) < 2 or scripts is None or not list(dynload.glob("_tkinter*")):
        pytest.skip("tkinter or Tcl is not installed")
    for path in found.values():
        # Its default would be found, and then it does not look next to the interpreter.
        content = path.read_bytes().replace(b"/usr/share/tcltk", b"/nonexistent/tcl")
        (bundled_base / "lib" / path.name).write_bytes(content)
    shutil.copytree(scripts, bundled_base / "lib" / "tcl8.6")
    write(bundled_base / "lib" / "tk8.6" / "tk.tcl", "")
    moved = bundle(inspect(bundled_base / "bin" / "python"), tmp_path / "prefix")
    shutil.rmtree(bundled_base)
    code = "import tkinter; print(tkinter.Tcl().eval('info library')); print(open('/proc/self/maps').read())"
    library, _, maps = run_python(moved, code).partition("\n")
    assert library == f"{moved}/lib/tcl8.6"
    assert f"{moved}/lib/libtcl8.6.so" in maps
    assert f"{moved}/lib/libtk8.6.so" in maps
    assert (moved / "lib" / "tk8.6" / "tk.tcl").is_file()


def test_broken_files_of_the_base_do_not_fail_the_build(bundled_base: Path, tmp_path: Path) -> None:
    library = next(bundled_base.glob("lib/python3.*/lib-dynload")).parent
    write(library / "lib-dynload" / "_broken.so", "not a library")
    (library / "lib-dynload" / "_empty.so").touch()
    (library / "dangling.py").symlink_to("/nonexistent")
    (bundled_base / "include" / library.name).mkdir(parents=True, exist_ok=True)
    (bundled_base / "include" / library.name / "dangling.h").symlink_to("/nonexistent")
    moved = bundle(inspect(bundled_base / "bin" / "python"), tmp_path / "prefix")
    assert run_python(moved, "import json, ctypes; print(json.dumps(1))") == "1"


def test_headers_of_packages_of_the_base_are_not_copied(bundled_base: Path, tmp_path: Path) -> None:
    include = Path("include", next(bundled_base.glob("lib/python3.*")).name)
    for name in ("Python.h", "internal/pycore_gc.h", "greenlet/greenlet.h"):
        write(bundled_base / include / name, "")
    moved = bundle(inspect(bundled_base / "bin" / "python"), tmp_path / "prefix")
    assert (moved / include / "internal" / "pycore_gc.h").is_file()
    assert not (moved / include / "greenlet").exists()


def test_a_library_of_a_package_is_not_written_to(whole: Path, tmp_path: Path) -> None:
    library = next((whole / "lib").glob("libpython3.*.so.1.0"), None)
    if library is None:
        pytest.skip("this Python has no shared library")
    prefix, cached = tmp_path / "prefix", write(tmp_path / "cached", "x")
    (prefix / "lib").mkdir(parents=True)
    (prefix / "lib" / library.name).hardlink_to(cached)
    bundle(inspect(whole / "bin" / "python"), prefix)
    assert cached.read_text() == "x"


def test_packages_named_like_parts_of_the_standard_library_are_kept(tmp_path: Path) -> None:
    base = inspect(OWN)
    site = tmp_path / "prefix" / "lib" / f"python{base.minor}" / "site-packages"
    names = ("test/__init__.py", "tkinter/__init__.py", "a/tests/test_a.py", "lib2to3/config-1/b.a", "turtle.py")
    for name in names:
        write(site / name, "")
    (tmp_path / "prefix" / "bin").mkdir()
    bundle_interpreter(tmp_path / "prefix", base, slim=True)
    assert [name for name in names if (site / name).is_file()] == list(names)


@pytest.mark.parametrize("options", [{"bundle_python": "no"}, {"slim_python": 1}, {"bundle_python": None}])
def test_options_that_are_not_bools_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    for arguments in ({"requirements": ["six"]}, {"prefix": "/x"}, {"file": "requirements.txt"}):
        with pytest.raises(InvalidArgumentError, match=rf"^{name}=.* is not a bool\. Write {name}=True or"):
            VenvEnvironment(**arguments, **options)


def test_a_slim_interpreter_must_be_bundled() -> None:
    with pytest.raises(InvalidArgumentError, match=r"slim_python=True needs a bundled interpreter.*Leave one"):
        VenvEnvironment(["six"], slim_python=True, bundle_python=False)


def test_slim_python_is_part_of_the_key_and_of_the_data(tmp_path: Path) -> None:
    slim = VenvEnvironment(["six"], slim_python=True)
    assert slim.key != VenvEnvironment(["six"]).key
    assert slim.to_dict()["slim_python"] is True
    again = VenvEnvironment.from_dict(slim.to_dict())
    assert isinstance(again, VenvEnvironment)
    assert again.slim_python
    assert again.key == slim.key
    write(tmp_path / "requirements.txt", "six\n")
    from_file = VenvEnvironment.from_file(tmp_path / "requirements.txt", slim_python=True)
    assert from_file.slim_python
    assert VenvEnvironment.from_lock(tmp_path / "uv.lock", slim_python=True).slim_python
    assert VenvEnvironment.from_prefix(tmp_path, slim_python=True).slim_python
    build(slim, tmp_path / "prefix")
    assert not list((tmp_path / "prefix").glob("lib/python3.*/ensurepip"))
