"""Venvs built with real uv, real packages and all Pythons of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.bundle_python import bundle_interpreter, remove_venv_files
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.pythons import BasePython, find_python, inspect_python
from airflow_provider_sparkdeps.environments.uv import Uv, uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.build_contexts import build, make_context


def deadline(seconds: float = 60) -> Deadline:
    return Deadline(seconds, "Building for a test")


MINORS = ("3.11", "3.12", "3.13", "3.14")


def find(minor: str) -> BasePython | None:
    try:
        return find_python(minor, uv=uv_binary(), deadline=deadline())
    except BuildError:
        return None


@pytest.fixture(params=["/usr/bin/python3", *MINORS])
def base(request: pytest.FixtureRequest) -> BasePython:
    is_path = request.param.startswith("/")
    found = inspect_python(Path(request.param), deadline=deadline()) if is_path else find(request.param)
    if found is None:
        pytest.skip(f"{request.param} is not installed")
    return found


@pytest.fixture
def can_hide() -> None:
    """Skip a test that hides an interpreter if that is not possible here."""
    if os.geteuid() != 0 or not shutil.which("unshare") or subprocess.call(["unshare", "-m", "true"]):
        pytest.skip("hiding an interpreter needs root and mount namespaces")


def without_base(base: BasePython, command: list[str | Path]) -> list[str]:
    """Return a command that runs another one while the base interpreter is hidden."""
    if base.prefix == Path("/usr"):
        hide = f"mount -t tmpfs none {base.stdlib} && mount --bind /dev/null {base.executable}"
    else:
        hide = f"mount -t tmpfs none {base.prefix}"
    return ["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh", *map(str, command)]


@pytest.mark.usefixtures("can_hide")
def test_a_prefix_of_any_python_runs_elsewhere_with_its_base_hidden(base: BasePython, tmp_path: Path) -> None:
    prefix = tmp_path / "built"
    uv = Uv(tmp_path, make_context())
    lock, _ = uv.compile(tmp_path, uv.file("requirements.in", ["six", "markupsafe"]), python=base.executable)
    uv.create_venv(prefix, python=base.executable)
    uv.install("--python", prefix / "bin" / "python", pylock=lock.read_text())
    remove_venv_files(prefix)
    interpreter = bundle_interpreter(prefix, base)
    moved = prefix.rename(tmp_path / "moved")
    code = (
        "import sys, json, ssl, sqlite3, ctypes, socket, zlib, hashlib, multiprocessing, six, markupsafe._speedups\n"
        "print(sys.prefix, sys.version.split()[0], markupsafe.__file__)"
    )
    command = without_base(base, [moved / interpreter, "-B", "-c", code])
    done = subprocess.run(command, cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    where, version, package = done.stdout.split()
    assert where == str(moved)
    assert version == base.version
    assert package.startswith(str(moved))
    hidden = without_base(base, [base.executable, "--version"])
    assert subprocess.run(hidden, capture_output=True, check=False).returncode != 0, "the base was not hidden"


def test_a_prefix_contains_no_link_out_of_it_and_no_files_of_the_venv(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    built = build(VenvEnvironment(["six", "tabulate"]), prefix)
    assert built.interpreter == "bin/python"
    assert not (prefix / "bin" / "python").is_symlink()
    assert not (prefix / "pyvenv.cfg").exists()
    links = {path: path.readlink() for path in prefix.rglob("*") if path.is_symlink()}
    assert links
    assert not [target for target in links.values() if target.is_absolute() or ".." in target.parts]
    assert not list(prefix.rglob("__pycache__"))
    assert not [path for path in (prefix / "bin").iterdir() if path.name.startswith("activate")]


def test_the_result_of_a_build_lists_its_packages_and_lock(tmp_path: Path) -> None:
    built = build(VenvEnvironment(["six==1.16.0", "Tabulate<1"], bundle_python=False), tmp_path / "prefix")
    assert built.packages.keys() == {"six", "tabulate"}
    assert built.packages["six"] == "1.16.0"
    assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
    assert built.python == ".".join(map(str, sys.version_info[:3]))


def test_scripts_find_the_interpreter_in_their_directory_after_a_move(tmp_path: Path) -> None:
    build(VenvEnvironment(["tabulate"]), tmp_path / "prefix")
    moved = (tmp_path / "prefix").rename(tmp_path / "moved")
    done = subprocess.run([moved / "bin" / "tabulate"], input="a b\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a" in done.stdout


def test_a_prefix_without_an_interpreter_runs_with_that_of_the_executor(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    built = build(VenvEnvironment(["six"], bundle_python=False), prefix)
    assert built.interpreter is None
    minor = ".".join(built.python.split(".")[:2])
    assert (prefix / "lib" / f"python{minor}" / "site-packages" / "six.py").is_file()
    assert not list((prefix / "bin").glob("python*"))
    # As the launcher does on executors.
    own = Path(getattr(sys, "_base_executable", sys.executable))
    (prefix / "bin" / "python").symlink_to(own)
    (prefix / "pyvenv.cfg").write_text(f"home = {own.parent}\n")
    check = "import six, sys; print(sys.prefix)"
    done = subprocess.run([prefix / "bin" / "python", "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(prefix)


def test_uvs_cache_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    build(VenvEnvironment(["markupsafe"], bundle_python=False), tmp_path / "one")

    def cached() -> dict[Path, tuple[int, int, bytes]]:
        files = (tmp_path / "cache").rglob("*.so")
        return {path: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = cached()
    assert before
    build(VenvEnvironment(["markupsafe"]), tmp_path / "two")
    assert cached() == before


def test_packages_from_the_cache_and_downloads_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    lines: list[str] = []
    for number, names in enumerate((["six"], ["six", "tabulate"], ["six"])):
        environment = VenvEnvironment(names, bundle_python=False)
        build(environment, tmp_path / str(number), lines=lines)
    assert [line for line in lines if "uv's cache" in line] == [
        f"install: {cached} packages from uv's cache, {fetched} fetched or built"
        for cached, fetched in ((0, 1), (1, 1), (1, 0))
    ]


@pytest.mark.parametrize(
    ("requirements", "message"),
    [
        (["a-package-that-nobody-made-for-sparkdeps"], "a-package-that-nobody-made-for-sparkdeps"),
        (["six==1.16.0", "six==1.17.0"], "unsatisfiable"),
        (["six==99.9"], "no version of six==99.9"),
    ],
)
def test_an_unsatisfiable_requirement_fails_with_the_resolvers_explanation(
    requirements: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=r"uv could not resolve the requirements\. Its output:") as caught:
        build(VenvEnvironment(requirements), tmp_path / "prefix")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) < 45


def test_requirements_whose_markers_exclude_everything_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="markers exclude it"):
        build(VenvEnvironment(["six; sys_platform == 'win32'"]), tmp_path / "prefix")


def test_an_error_about_a_missing_python_lists_those_that_are_installed(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"There is no CPython 3\.99 on this machine: found 3\.\d") as caught:
        build(VenvEnvironment(["six"], python="3.99"), tmp_path / "prefix")
    assert "uv python install 3.99" in str(caught.value)


def another_minor() -> BasePython | None:
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return next((python for minor in MINORS if minor != own and (python := find(minor))), None)


def test_a_python_that_uv_manages_is_found_and_can_be_built_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another_minor()
    if other is None:
        pytest.skip("there is only one minor version of Python on this machine")
    # A built prefix has the layout of Pythons that uv installs, which tests can't download.
    managed = tmp_path / "managed" / f"cpython-{other.version}-linux-x86_64-gnu"
    managed.parent.mkdir()
    build(VenvEnvironment(["six"], python=other.minor), managed)
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(managed.parent))
    monkeypatch.setenv("PATH", "/nonexistent")
    found = find_python(other.minor, uv=uv_binary(), deadline=deadline())
    assert found.executable == managed / "bin" / "python"
    built = build(VenvEnvironment(["tabulate"], python=other.minor), tmp_path / "prefix")
    verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=deadline())
    assert built.packages.keys() == {"tabulate"}


def test_a_python_is_downloaded_only_if_the_user_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "automatic")
    with pytest.raises(BuildError, match=r"uv could not fetch Python 3\.99\. Its output"):
        build(VenvEnvironment(["six"], python="3.99"), tmp_path / "prefix")


def test_another_platform_is_refused_before_the_build_starts(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="can't build for linux-vax"):
        build(VenvEnvironment(["six"], platform="linux-vax"), tmp_path / "prefix")
    assert not list(tmp_path.iterdir())


def test_a_timeout_ends_the_build_and_names_the_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An index that accepts connections and never answers.
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://me:hunter2@127.0.0.1:{silent.getsockname()[1]}/simple")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(BuildError, match="running `uv pip compile`") as caught:
            build(VenvEnvironment(["six"]), tmp_path / "prefix", timeout=1.5)
    assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_password_of_an_index_is_not_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(BuildError) as caught:
        build(VenvEnvironment(["six"]), tmp_path / "prefix")
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


def test_settings_of_the_workers_python_do_not_affect_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("UV_COMPILE_BYTECODE", "1")
    monkeypatch.setenv("UV_LINK_MODE", "symlink")
    monkeypatch.setenv("UV_VENV_SEED", "1")
    built = build(VenvEnvironment(["six"], bundle_python=False), tmp_path / "prefix")
    assert built.packages.keys() == {"six"}
    assert not list((tmp_path / "prefix").rglob("*.pyc"))
    (module,) = (tmp_path / "prefix").glob("lib/python3.*/site-packages/six.py")
    assert not module.is_symlink()


class TestVerifyPrefix:
    """A prefix that does not work is detected before it is published."""

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltPrefix]:
        prefix = tmp_path_factory.mktemp("made") / "prefix"
        return prefix, build(VenvEnvironment(["six", "tabulate"]), prefix)

    @pytest.fixture
    def copy(self, made: tuple[Path, BuiltPrefix], tmp_path: Path) -> Path:
        return Path(shutil.copytree(made[0], tmp_path / "copy", symlinks=True))

    def test_a_working_prefix_passes(self, made: tuple[Path, BuiltPrefix], copy: Path) -> None:
        verify_prefix(copy, made[1], deadline=deadline())

    def test_a_missing_package_is_named(self, made: tuple[Path, BuiltPrefix], copy: Path) -> None:
        shutil.rmtree(next(copy.rglob("tabulate-*.dist-info")))
        with pytest.raises(BuildError, match=r"missing from the built environment: tabulate\."):
            verify_prefix(copy, made[1], deadline=deadline())

    def test_a_link_to_an_interpreter_elsewhere_is_detected(self, made: tuple[Path, BuiltPrefix], copy: Path) -> None:
        python = copy / "bin" / "python"
        python.unlink()
        python.symlink_to(getattr(sys, "_base_executable", sys.executable))
        with pytest.raises(BuildError, match="is not relocatable"):
            verify_prefix(copy, made[1], deadline=deadline())

    def test_a_library_of_the_base_is_detected(self, made: tuple[Path, BuiltPrefix], copy: Path) -> None:
        shared = next((copy / "lib").glob("libpython3.*.so.*"), None)
        if shared is None:
            pytest.skip("this Python has no shared library")
        elsewhere = Path(tempfile.mkdtemp(dir=copy.parent))
        shutil.move(shared, elsewhere / shared.name)
        shared.symlink_to(elsewhere / shared.name)
        with pytest.raises(BuildError, match="still uses files of this machine"):
            verify_prefix(copy, made[1], deadline=deadline())

    def test_a_broken_module_of_the_standard_library_is_named(self, made: tuple[Path, BuiltPrefix], copy: Path) -> None:
        next(copy.glob("lib/python3.*/sqlite3/dbapi2.py")).unlink()
        with pytest.raises(BuildError, match="sqlite3: No module named"):
            verify_prefix(copy, made[1], deadline=deadline())
