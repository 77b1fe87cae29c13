"""PEX environments: with real pex and uv, real packages and all the Pythons of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.archives import Archive, ArchiveStore
from airflow_provider_sparkdeps.environments import Environment, PexEnvironment
from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.pex.existing import unpack
from airflow_provider_sparkdeps.environments.pex.pex_info import PexInfo, read_info
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.pythons import find_python
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.build_contexts import build

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys._base_executable)  # type: ignore[attr-defined]
# ldd is what a PEX looks for there.
PATH = f"{BASE.parent}:/usr/bin:/bin"


def deadline(seconds: float = 60) -> Deadline:
    return Deadline(seconds, "Building for a test")


def pex(file: Path, *arguments: str | Path) -> Path:
    """A PEX that somebody made."""
    command = [sys.executable, "-m", "pex", *arguments, "-o", file]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return file


def run(prefix: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": PATH, "HOME": "/nonexistent", **environ}
    return subprocess.run([prefix / "bin/python", "-c", code], env=environ, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zipapp."""
    return pex(tmp_path_factory.mktemp("pex") / "six.pex", "six==1.16.0", "markupsafe")


class TestSpecification:
    def test_order_space_and_comments_make_no_difference(self) -> None:
        one, other = PexEnvironment(["six", "Tabulate >= 0.9"]), PexEnvironment(["tabulate>=0.9  # for six", "six"])
        assert one == other
        assert one.key == other.key

    def test_it_comes_back_from_plain_data(self, six: Path) -> None:
        for environment in (
            PexEnvironment(["six"]),
            PexEnvironment.from_pex(six),
            PexEnvironment(["six"], python="3.13"),
        ):
            assert str(six.parent) not in str(environment.to_dict())
            again = Environment.from_dict({**environment.to_dict(), "base_dir": six.parent})
            assert (type(again), again.key, again.python_minor) == (
                PexEnvironment,
                environment.key,
                environment.python_minor,
            )

    def test_a_files_key_is_that_of_its_contents_wherever_it_lies(self, six: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copy(six, tmp_path / "renamed.pex"))
        key = PexEnvironment.from_pex(six).key
        assert PexEnvironment.from_pex(copy).key == key
        with copy.open("ab") as file:
            file.write(b"\n")
        assert PexEnvironment.from_pex(copy).key != key
        assert PexEnvironment.from_pex(six, python="3.99").key != key

    def test_a_file_that_is_missing_is_told_when_the_key_is_asked_for(self, tmp_path: Path) -> None:
        environment = PexEnvironment.from_pex(tmp_path / "missing.pex")
        assert str(environment.title) == f"pex of missing.pex (Python {MINOR})"
        with pytest.raises(InvalidArgumentError, match=r"Could not read .*missing\.pex: No such file"):
            _ = environment.key

    @pytest.mark.parametrize("nothing", [{}, {"requirements": []}])
    def test_a_wish_for_nothing_is_refused(self, nothing: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgumentError, match="requirements"):
            PexEnvironment(**nothing)

    def test_a_file_with_requirements_is_refused(self) -> None:
        with pytest.raises(InvalidArgumentError, match="exclude each other"):
            PexEnvironment(["six"], pex="app.pex")
        with pytest.raises(InvalidArgumentError, match="is not a path"):
            PexEnvironment(pex="")


class TestMade:
    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltPrefix]:
        prefix = tmp_path_factory.mktemp("made") / "prefix"
        built = build(PexEnvironment(["six==1.16.0", "markupsafe", "tabulate"]), prefix)
        return prefix.rename(prefix.with_name("moved")), built

    def test_what_was_built_is_told_exactly(self, made: tuple[Path, BuiltPrefix]) -> None:
        _, built = made
        assert built.packages.keys() == {"six", "markupsafe", "tabulate"}
        assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
        assert built.python == ".".join(map(str, sys.version_info[:3]))
        assert built.interpreter == "bin/python"

    def test_it_passes_the_check_from_another_place(self, made: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = made
        verify_prefix(prefix, built, deadline=deadline())

    def test_it_holds_no_link_that_leaves_it_and_no_trace_of_this_machine(self, made: tuple[Path, BuiltPrefix]) -> None:
        prefix, _ = made
        links = [path.readlink() for path in prefix.rglob("*") if path.is_symlink()]
        assert not [target for target in links if target.is_absolute() or ".." in target.parts]
        # A distribution's Python lies next to /usr/bin/env, which scripts may well name.
        own = BASE if BASE.parent == Path("/usr/bin") else BASE.parent
        here = [str(own).encode(), str(prefix.parent).encode()]
        files = (path for path in prefix.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert not [path for path in files if any(trace in path.read_bytes() for trace in here)]

    def test_it_imports_what_python_path_brings_and_nothing_of_the_python_that_runs_it(
        self, made: tuple[Path, BuiltPrefix], tmp_path: Path
    ) -> None:
        venv = tmp_path / "venv"
        subprocess.run([BASE, "-m", "venv", "--without-pip", venv], check=True)
        (venv / f"lib/python{MINOR}/site-packages/of_the_executor.py").touch()
        (tmp_path / "spark_brings_it.py").touch()
        (tmp_path / "six.py").touch()
        code = "import spark_brings_it, markupsafe._speedups\nimport of_the_executor"
        done = run(made[0], code, PATH=str(venv / "bin"), PYTHONPATH=str(tmp_path))
        assert "No module named 'of_the_executor'" in done.stderr

    def test_settings_for_other_pexes_do_not_reach_it(self, made: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        (tmp_path / ".pexrc").write_text("PEX_PYTHON=/nonexistent/python\n")
        names = ("PEX_MODULE", "PEX_SCRIPT", "PEX_PATH", "PEX_PYTHON", "PEX_INHERIT_PATH")
        done = run(
            made[0], "import six; print(six.__version__)", HOME=str(tmp_path), **dict.fromkeys(names, "nonsense")
        )
        assert (done.stdout, done.stderr) == ("1.16.0\n", "")

    def test_its_cache_lies_next_to_it(self, made: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        prefix = tmp_path / "prefix"
        shutil.copytree(made[0], prefix, symlinks=True)
        assert run(prefix, "import six", HOME=str(tmp_path / "home")).returncode == 0
        assert {path.name for path in tmp_path.iterdir()} == {"prefix", "pex"}

    @pytest.mark.parametrize("shim", [None, "#!/bin/sh\necho 'not installed' >&2\nexit 127\n"])
    def test_without_a_python_it_says_what_is_missing_and_where(
        self, made: tuple[Path, BuiltPrefix], tmp_path: Path, shim: str | None
    ) -> None:
        if shim:
            (tmp_path / f"python{MINOR}").write_text(shim)
            (tmp_path / f"python{MINOR}").chmod(0o755)
        done = run(made[0], "", PATH=str(tmp_path))
        assert done.returncode == 1
        assert f"no python{MINOR} works on this executor's PATH ({tmp_path}). Install it" in done.stderr

    def test_arguments_arrive_as_they_are(self, made: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        (tmp_path / "module.py").write_text("import sys; print(sys.argv[1:])")
        command = [made[0] / "bin/python", "-m", "module", "", "two words", "$HOME `id` *"]
        environ = {"PATH": str(BASE.parent), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout == "['', 'two words', '$HOME `id` *']\n"

    def test_a_lost_package_is_found_out(self, made: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        copy = Path(shutil.copytree(made[0], tmp_path / "copy", symlinks=True))
        shutil.rmtree(next(copy.glob("app.pex/.deps/six-*")))
        with pytest.raises(BuildError, match=r"does not run\. Its output:(.|\n)*six"):
            verify_prefix(copy, made[1], deadline=deadline())

    def test_a_package_of_another_version_is_found_out(self, made: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = made
        expected = dataclasses.replace(built, packages={**built.packages, "six": "1.17.0"})
        with pytest.raises(BuildError, match=r"missing from the built environment: six\."):
            verify_prefix(prefix, expected, deadline=deadline())

    def test_another_python_than_it_was_built_for_is_found_out(self, made: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = made
        with pytest.raises(BuildError, match=r"runs Python 3\.\d+\.\d+ instead of Python 3\.99\.0"):
            verify_prefix(prefix, dataclasses.replace(built, python="3.99.0"), deadline=deadline())


def archive(environment: PexEnvironment, store: Path) -> Archive:
    return ArchiveStore(store).build(environment, timeout=100)


def test_built_twice_it_is_the_same_to_the_byte(six: Path, tmp_path: Path) -> None:
    for environment in (PexEnvironment(["markupsafe", "tabulate"]), PexEnvironment.from_pex(six)):
        digests = {archive(environment, tmp_path / store).sha256 for store in "ab"}
        assert len(digests) == 1


def test_uvs_cache_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    build(PexEnvironment(["markupsafe"]), tmp_path / "one")

    def cached() -> dict[Path, tuple[int, int, bytes]]:
        files = (tmp_path / "cache").rglob("*.so")
        return {path: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = cached()
    assert before
    build(PexEnvironment(["markupsafe"]), tmp_path / "two")
    assert cached() == before


def test_settings_of_the_workers_own_pexes_do_not_reach_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PEX_MODULE", "PEX_SCRIPT", "PEX_INTERPRETER", "PEX_PYTHON", "PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PEX_INHERIT_PATH", "prefer")
    (tmp_path / ".pexrc").write_text("PEX_VENV=1\nPEX_INHERIT_PATH=prefer\n")
    assert build(PexEnvironment(["six"]), tmp_path / "prefix").packages.keys() == {"six"}
    assert json.loads((tmp_path / "prefix/app.pex/PEX-INFO").read_text())["inherit_path"] == "false"
    assert not (tmp_path / ".cache/pex").exists()


def test_without_pex_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, six: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install 'airflow-provider-sparkdeps\[pex\]'"):
        build(PexEnvironment(["six"]), tmp_path / "prefix")
    assert build(PexEnvironment.from_pex(six), tmp_path / "taken").packages["six"] == "1.16.0"


def test_a_wish_that_cannot_be_met_ends_with_the_resolvers_own_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"uv could not resolve the requirements\. Its output:(.|\n)*six==99\.9"):
        build(PexEnvironment(["six==99.9"]), tmp_path / "prefix")
    with pytest.raises(BuildError, match="markers exclude it"):
        build(PexEnvironment(["six; sys_platform == 'win32'"]), tmp_path / "prefix")


def test_it_is_built_for_another_python_of_this_machine(tmp_path: Path) -> None:
    other = next((minor for minor in ("3.13", "3.12", "3.11") if minor != MINOR and has(minor)), None)
    if other is None:
        pytest.skip("there is only one minor version of Python on this machine")
    built = build(PexEnvironment(["markupsafe"], python=other), tmp_path / "prefix")
    assert built.python.startswith(f"{other}.")
    verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=deadline())


def has(minor: str) -> bool:
    try:
        return bool(find_python(minor, uv=uv_binary(), deadline=deadline()))
    except BuildError:
        return False


class TestTaken:
    """A PEX that somebody made, in all the ways that pex has for it."""

    @pytest.mark.parametrize(
        "options",
        [
            [],
            ["--no-compress"],
            ["--venv"],
            ["--venv", "--inherit-path=prefer"],
            ["--inherit-path=fallback"],
            ["--no-pre-install-wheels"],
            ["--sh-boot"],
            ["--entry-point", "this"],
            ["--no-strip-pex-env"],
        ],
        ids=" ".join,
    )
    def test_it_runs_as_an_interpreter_from_another_place(self, options: list[str], tmp_path: Path) -> None:
        file = pex(tmp_path / "app.pex", "six==1.16.0", "markupsafe", *options)
        built = build(PexEnvironment.from_pex(file), tmp_path / "prefix")
        assert built.packages.keys() == {"six", "markupsafe"}
        assert built.packages["six"] == "1.16.0"
        assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
        moved = (tmp_path / "prefix").rename(tmp_path / "moved")
        verify_prefix(moved, built, deadline=deadline())
        done = run(moved, "import six, markupsafe._speedups; print(six.__version__)")
        assert (done.stdout, done.stderr) == ("1.16.0\n", "")

    def test_what_is_no_pex_is_refused_by_its_name(self, tmp_path: Path) -> None:
        (tmp_path / "text.pex").write_text("#!/bin/sh\n")
        with zipfile.ZipFile(tmp_path / "other.pex", "w") as other:
            other.writestr("__main__.py", "")
        for name in ("text.pex", "other.pex"):
            with pytest.raises(
                InvalidArgumentError, match=rf"{name} is not a PEX: it is not a zip file with a PEX-INFO"
            ):
                build(PexEnvironment.from_pex(tmp_path / name), tmp_path / "prefix")
        with pytest.raises(InvalidArgumentError, match="is not a PEX: it is a native program, but not a scie"):
            build(PexEnvironment.from_pex("/bin/true"), tmp_path / "prefix")

    def test_a_file_that_changes_while_it_is_built_is_not_published(self, six: Path, tmp_path: Path) -> None:
        file = Path(shutil.copy(six, tmp_path / "app.pex"))
        environment = PexEnvironment.from_pex(file)
        key, store = environment.key, ArchiveStore(tmp_path / "store")

        def change(line: str) -> None:
            if line.startswith("relocate:"):
                shutil.copy(shutil.which("true") or "", file)

        with pytest.raises(InvalidArgumentError, match="its input files changed while it was built"):
            store.build(environment, timeout=60, progress=change)
        assert store.find(key) is None

    def test_a_relative_path_starts_where_the_environment_is_created(self, six: Path, tmp_path: Path) -> None:
        code = (
            "from airflow_provider_sparkdeps.environments import PexEnvironment as P; key = P.from_pex('six.pex').key"
        )
        names: dict[str, object] = {"__file__": str(six.with_name("dag.py")), "__name__": "dag"}
        exec(code, names)
        assert names["key"] == PexEnvironment.from_pex(six).key

    def test_programs_and_links_in_it_stay_what_they_are(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "app.pex", "w") as archive:
            for name, mode, content in (("link", 0o120777, "tool"), ("tool", 0o100755, ""), ("doc", 0o100644, "")):
                entry = zipfile.ZipInfo(name)
                entry.external_attr = mode << 16
                archive.writestr(entry, content)
        unpack(tmp_path / "app.pex", tmp_path / "app", deadline=deadline())
        assert (tmp_path / "app/link").readlink() == Path("tool")
        assert [os.access(tmp_path / "app" / name, os.X_OK) for name in ("tool", "doc")] == [True, False]
        with pytest.raises(BuildError, match=r"It was unpacking app\.pex"):
            unpack(tmp_path / "app.pex", tmp_path / "late", deadline=deadline(-1))

    def test_one_for_another_python_is_refused_with_both_named(self, tmp_path: Path) -> None:
        other = "3.13" if MINOR != "3.13" else "3.12"
        tight = pex(tmp_path / "tight.pex", "six", "--python-shebang=/usr/bin/env python3")
        rewrite_info(tight, f'"interpreter_constraints":["CPython=={other}.*"]')
        with pytest.raises(
            InvalidArgumentError, match=rf"tight\.pex is for Python {other} \(its interpreter .* Python {MINOR} pickles"
        ):
            build(PexEnvironment.from_pex(tight), tmp_path / "prefix")


def rewrite_info(file: Path, constraints: str) -> None:
    """Give a PEX constraints that no Python of this machine need meet."""
    with zipfile.ZipFile(file) as old:
        entries = [(entry, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(file, "w") as new:
        for entry, content in entries:
            new.writestr(entry, content.replace(b'"interpreter_constraints":[]', constraints.encode()))


@pytest.mark.parametrize(
    ("wheels", "constraints", "pythons"),
    [
        (("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", "b-1-py3-none-any.whl"), (), "3.12"),
        (("a-1-cp311-cp311-linux_x86_64.whl", "a-1-cp312-cp312-linux_x86_64.whl"), (), "3.11 to 3.12"),
        (("a-1-cp311-abi3-linux_x86_64.whl", "b-1-py2.py3-none-any.whl"), (), "3.11 and later"),
        (("a-1-cp311-abi3-linux_x86_64.whl",), ("CPython<3.13,>=3.9",), "3.11 to 3.12"),
        (("b-1-py3-none-any.whl",), ("==3.10.*", "CPython==3.9.*"), "3.9 to 3.10"),
        (("a-1-cp311-cp311-linux_x86_64.whl", "b-1-cp312-cp312-linux_x86_64.whl"), (), "no known version"),
        (("a-1-pp310-pypy310_pp73-linux_x86_64.whl",), (), "no known version"),
    ],
)
def test_the_pythons_of_a_pex_are_read_from_its_wheels_and_constraints(
    wheels: tuple[str, ...], constraints: tuple[str, ...], pythons: str
) -> None:
    assert PexInfo(scie=False, constraints=constraints, wheels=wheels).pythons == pythons


@pytest.mark.skipif(not shutil.which("cc"), reason="the stand-in for a scie's launcher is compiled")
class TestScie:
    """A scie but for its launcher and its Python, which would have to be downloaded: a stand-in runs this Python."""

    @pytest.fixture
    def scie(self, six: Path, tmp_path: Path) -> Path:
        program = tmp_path / "launcher.c"
        program.write_text(
            "#include <unistd.h>\nint main(int n, char **old) { char *new[n + 2]; int i;\n"
            f' new[0] = "{BASE}"; new[1] = "{six}"; for (i = 1; i <= n; i++) new[i + 1] = old[i];\n'
            " return execv(new[0], new); }\n"
        )
        subprocess.run(["cc", "-o", tmp_path / "launcher", program], check=True)
        file = tmp_path / "app"
        manifest = b'\n{"scie":{"lift":{"name":"app"}}}\n'
        file.write_bytes((tmp_path / "launcher").read_bytes() + six.read_bytes() + manifest)
        return file

    def test_it_needs_no_python_on_path(self, scie: Path, tmp_path: Path) -> None:
        assert read_info(scie).scie
        built = build(PexEnvironment.from_pex(scie), tmp_path / "prefix")
        assert built.packages.keys() == {"six", "markupsafe"}
        moved = (tmp_path / "prefix").rename(tmp_path / "moved")
        verify_prefix(moved, built, deadline=deadline())
        assert run(moved, "import six; print(six.__version__)", PATH="/nonexistent").stdout == "1.16.0\n"

    def test_its_packages_are_known_even_if_its_pex_lies_deeper_in_it(self, scie: Path, tmp_path: Path) -> None:
        with scie.open("ab") as file:
            file.write(b" " * 100_000)
        assert read_info(scie) == PexInfo(scie=True, constraints=(), wheels=())
        assert build(PexEnvironment.from_pex(scie), tmp_path / "prefix").packages["six"] == "1.16.0"

    def test_one_with_another_python_is_refused_with_both_named(self, scie: Path, tmp_path: Path) -> None:
        environment = PexEnvironment.from_pex(scie, python="3.99")
        with pytest.raises(InvalidArgumentError, match=r"app (contains|is for) Python .* but Python 3\.99 pickles"):
            build(environment, tmp_path / "prefix")


def test_the_interpreter_script_has_no_bashisms(six: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("no busybox here")
    build(PexEnvironment.from_pex(six), tmp_path / "prefix")
    command = [busybox, "sh", tmp_path / "prefix/bin/python", "-c", "import six; print(six.__version__)"]
    environ = {"PATH": str(BASE.parent), "HOME": os.devnull}
    assert subprocess.run(command, env=environ, capture_output=True, check=True).stdout == b"1.16.0\n"


def test_nothing_is_copied_and_uvs_cache_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))

    def cached() -> dict[Path, tuple[int, int, bytes]]:
        libraries = (tmp_path / "cache").rglob("*.so")
        return {path: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes()) for path in libraries}

    environment = PexEnvironment(["markupsafe"])
    build(environment, tmp_path / "one")
    before = cached()
    assert before
    build(environment, tmp_path / "two")
    assert cached() == before
    (library,) = (tmp_path / "two").rglob("*.so")
    assert library.stat().st_nlink > 1
