"""PEX environments that are built, with real pex, uv and packages and all Pythons of this machine."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import PexEnvironment
from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.pythons import find_python
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError

from ...support.build_contexts import build, make_context
from ...support.package_index import make_wheel
from ...support.pexes import BASE, MINOR, run


class TestBuilt:
    @pytest.fixture(scope="class")
    @classmethod
    def built_pex(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BuiltPrefix]:
        prefix = tmp_path_factory.mktemp("made") / "prefix"
        built = build(PexEnvironment(["six==1.16.0", "markupsafe", "tabulate"]), prefix)
        return prefix.rename(prefix.with_name("moved")), built

    def test_the_result_lists_the_packages_and_the_lock(self, built_pex: tuple[Path, BuiltPrefix]) -> None:
        _, built = built_pex
        assert built.packages.keys() == {"six", "markupsafe", "tabulate"}
        assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
        assert built.python == ".".join(map(str, sys.version_info[:3]))
        assert built.interpreter == "bin/python"

    def test_it_is_verified_after_it_was_moved(self, built_pex: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = built_pex
        verify_prefix(prefix, built, deadline=make_context().deadline)

    def test_it_contains_no_link_out_of_it_and_no_local_path(self, built_pex: tuple[Path, BuiltPrefix]) -> None:
        prefix, _ = built_pex
        links = [path.readlink() for path in prefix.rglob("*") if path.is_symlink()]
        assert not [target for target in links if target.is_absolute() or ".." in target.parts]
        # The Python of a Linux distribution is next to /usr/bin/env, which scripts may contain.
        own = BASE if BASE.parent == Path("/usr/bin") else BASE.parent
        local = [str(own).encode(), str(prefix.parent).encode()]
        files = (path for path in prefix.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        assert not [path for path in files if any(text in path.read_bytes() for text in local)]

    def test_it_imports_modules_on_pythonpath_but_no_packages_of_the_executors_python(
        self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path
    ) -> None:
        venv = tmp_path / "venv"
        subprocess.run([BASE, "-m", "venv", "--without-pip", venv], check=True)
        (venv / f"lib/python{MINOR}/site-packages/of_the_executor.py").touch()
        (tmp_path / "module_of_spark.py").touch()
        (tmp_path / "six.py").touch()
        code = "import module_of_spark, markupsafe._speedups\nimport of_the_executor"
        done = run(built_pex[0], code, PATH=str(venv / "bin"), PYTHONPATH=str(tmp_path))
        assert "No module named 'of_the_executor'" in done.stderr

    def test_settings_for_other_pexes_have_no_effect(self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        (tmp_path / ".pexrc").write_text("PEX_PYTHON=/nonexistent/python\n")
        names = ("PEX_MODULE", "PEX_SCRIPT", "PEX_PATH", "PEX_PYTHON", "PEX_INHERIT_PATH")
        done = run(
            built_pex[0], "import six; print(six.__version__)", HOME=str(tmp_path), **dict.fromkeys(names, "nonsense")
        )
        assert (done.stdout, done.stderr) == ("1.16.0\n", "")

    def test_its_cache_is_next_to_it(self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        prefix = tmp_path / "prefix"
        shutil.copytree(built_pex[0], prefix, symlinks=True)
        assert run(prefix, "import six", HOME=str(tmp_path / "home")).returncode == 0
        assert {path.name for path in tmp_path.iterdir()} == {"prefix", "pex"}

    @pytest.mark.parametrize("shim", [None, "#!/bin/sh\necho 'not installed' >&2\nexit 127\n"])
    def test_without_a_python_the_error_names_the_version_and_the_path(
        self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path, shim: str | None
    ) -> None:
        if shim:
            (tmp_path / f"python{MINOR}").write_text(shim)
            (tmp_path / f"python{MINOR}").chmod(0o755)
        done = run(built_pex[0], "", PATH=str(tmp_path))
        assert done.returncode == 1
        assert f"no python{MINOR} works on this executor's PATH ({tmp_path}). Install it" in done.stderr

    def test_arguments_are_passed_unchanged(self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        (tmp_path / "module.py").write_text("import sys; print(sys.argv[1:])")
        command: list[str | Path] = [built_pex[0] / "bin/python", "-m", "module", "", "two words", "$HOME `id` *"]
        environ = {"PATH": str(BASE.parent), "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout == "['', 'two words', '$HOME `id` *']\n"

    def test_a_missing_package_is_detected(self, built_pex: tuple[Path, BuiltPrefix], tmp_path: Path) -> None:
        copy = Path(shutil.copytree(built_pex[0], tmp_path / "copy", symlinks=True))
        shutil.rmtree(next(copy.glob("app.pex/.deps/six-*")))
        with pytest.raises(BuildError, match=r"does not run\. Its output:(.|\n)*six"):
            verify_prefix(copy, built_pex[1], deadline=make_context().deadline)

    def test_another_version_of_a_package_is_detected(self, built_pex: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = built_pex
        expected = dataclasses.replace(built, packages={**built.packages, "six": "1.17.0"})
        with pytest.raises(BuildError, match=r"missing from the built environment: six\."):
            verify_prefix(prefix, expected, deadline=make_context().deadline)

    def test_another_python_is_detected(self, built_pex: tuple[Path, BuiltPrefix]) -> None:
        prefix, built = built_pex
        with pytest.raises(BuildError, match=r"runs Python 3\.\d+\.\d+ instead of Python 3\.99\.0"):
            verify_prefix(prefix, dataclasses.replace(built, python="3.99.0"), deadline=make_context().deadline)


@pytest.mark.slow
def test_it_is_built_from_a_file_and_from_a_lock(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "cheese", "1.0")
    (tmp_path / "requirements.txt").write_text(f"./{wheel.name}\n")
    packages = (
        f'[[packages]]\nname = "cheese"\nversion = "1.0"\nwheels = [{{ path = "{wheel.name}", hashes = {{}} }}]\n'
    )
    (tmp_path / "pylock.toml").write_text(f'lock-version = "1.0"\n{packages}')
    environments = [
        PexEnvironment.from_file("requirements.txt", base_dir=tmp_path),
        PexEnvironment.from_lock("pylock.toml", base_dir=tmp_path),
    ]
    for number, environment in enumerate(environments):
        built = build(environment, tmp_path / str(number))
        assert built.packages == {"cheese": "1.0"}
        assert run(tmp_path / str(number), "import cheese; print(cheese.VERSION)").stdout == "1.0\n"


@pytest.mark.slow
def test_two_builds_have_the_same_bytes(six: Path, tmp_path: Path) -> None:
    for environment in (PexEnvironment(["markupsafe", "tabulate"]), PexEnvironment.from_pex(six)):
        digests = {ArchiveStore(tmp_path / store).build(environment, timeout=100).sha256 for store in "ab"}
        assert len(digests) == 1


@pytest.mark.slow
def test_settings_for_pexes_of_the_worker_do_not_affect_the_build(
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


@pytest.mark.slow
def test_without_pex_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, six: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"pip install 'airflow-provider-sparkdeps\[pex\]'"):
        build(PexEnvironment(["six"]), tmp_path / "prefix")
    assert build(PexEnvironment.from_pex(six), tmp_path / "taken").packages["six"] == "1.16.0"


def test_unsatisfiable_requirements_fail_with_the_resolvers_explanation(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"uv could not resolve the requirements\. Its output:(.|\n)*six==99\.9"):
        build(PexEnvironment(["six==99.9"]), tmp_path / "prefix")
    with pytest.raises(BuildError, match="markers exclude it"):
        build(PexEnvironment(["six; sys_platform == 'win32'"]), tmp_path / "prefix")


@pytest.mark.slow
def test_it_is_built_for_another_python_of_this_machine(tmp_path: Path) -> None:
    other = next((minor for minor in ("3.13", "3.12", "3.11") if minor != MINOR and has(minor)), None)
    if other is None:
        pytest.skip("there is only one minor version of Python on this machine")
    built = build(PexEnvironment(["markupsafe"], python=other), tmp_path / "prefix")
    assert built.python.startswith(f"{other}.")
    verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=make_context().deadline)


def has(minor: str) -> bool:
    try:
        return bool(find_python(minor, uv=uv_binary(), deadline=make_context().deadline))
    except BuildError:
        return False


@pytest.mark.slow
def test_the_interpreter_script_has_no_bashisms(six: Path, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    build(PexEnvironment.from_pex(six), tmp_path / "prefix")
    command: list[str | Path] = [
        busybox,
        "sh",
        tmp_path / "prefix/bin/python",
        "-c",
        "import six; print(six.__version__)",
    ]
    environ = {"PATH": str(BASE.parent), "HOME": os.devnull}
    assert subprocess.run(command, env=environ, capture_output=True, check=True).stdout == b"1.16.0\n"


@pytest.mark.slow
def test_files_of_uvs_cache_are_linked_and_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
