"""Existing virtualenvs, which are copied and made self-contained."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import build, make_context, run_python
from ...support.package_index import make_wheel
from ...support.projects import digests, make_library, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def virtualenv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("virtualenv")
    venv = root / "venv"
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
    install: list[str | Path] = [uv_binary(), "pip", "install", "--quiet", "--python", venv / "bin" / "python"]
    wheel = make_wheel(root, "by-path", "2.0")
    subprocess.run([*install, "six==1.16.0", "markupsafe", "tabulate==0.9.0", wheel], check=True)
    return venv


@pytest.fixture
def venv(virtualenv: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(virtualenv, tmp_path / "venv", symlinks=True))


def test_it_runs_from_another_directory_with_its_packages_and_scripts(virtualenv: Path, tmp_path: Path) -> None:
    before = digests(virtualenv)
    environment = VenvEnvironment.from_prefix(virtualenv)
    built = build(environment, tmp_path / "prefix")
    assert digests(virtualenv) == before, "the virtualenv was written to"
    assert built.packages == {**built.packages, "by-path": "2.0", "six": "1.16.0", "tabulate": "0.9.0"}
    assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
    moved = (tmp_path / "prefix").rename(tmp_path / "moved")
    verify_prefix(moved, built, deadline=make_context().deadline)
    done = subprocess.run([moved / "bin" / "by-path"], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2.0", done.stderr
    texts = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    assert not [path for path, text in texts.items() if str(virtualenv).encode() in text]
    assert not list(moved.glob("lib/*/site-packages/*/direct_url.json"))


def test_a_copy_of_a_virtualenv_has_the_same_key_and_bytes(virtualenv: Path, venv: Path, tmp_path: Path) -> None:
    one, other = (VenvEnvironment.from_prefix(each, bundle_python=False) for each in (virtualenv, venv))
    assert one.key == other.key
    build(one, tmp_path / "one")
    build(other, tmp_path / "other")
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_the_key_depends_on_its_contents(venv: Path) -> None:
    environment = VenvEnvironment.from_prefix(venv)
    (site,) = venv.glob("lib/*/site-packages")
    keys = [environment.key]
    write(site / "added.py", "x = 1\n")
    keys.append(environment.key)
    write(site / "six.py", "# patched\n")
    keys.append(environment.key)
    shutil.rmtree(next(site.glob("tabulate-*.dist-info")))
    keys.append(environment.key)
    assert len(set(keys)) == len(keys)
    write(site / "__pycache__" / "six.cpython-311.pyc", "x")
    assert environment.key == keys[-1]


@pytest.mark.slow
def test_editable_projects_are_installed_as_wheels(venv: Path, tmp_path: Path) -> None:
    project = make_library(tmp_path / "my_lib")
    install: list[str | Path] = [uv_binary(), "pip", "install", "--quiet", "--python", venv / "bin" / "python"]
    subprocess.run([*install, "--editable", project], check=True)
    environment = VenvEnvironment.from_prefix(venv)
    before = environment.key
    built = build(environment, tmp_path / "prefix")
    assert "my-lib" in built.packages
    assert run_python(tmp_path / "prefix", "import my_lib; print(my_lib.__file__)").startswith(str(tmp_path / "prefix"))
    assert not [path for path in (tmp_path / "prefix").rglob("*.pth") if str(tmp_path) in path.read_text()]
    make_library(tmp_path / "my_lib", answer=43)
    assert environment.key != before
    shutil.rmtree(project)
    with pytest.raises(InvalidArgumentError, match=r"my-lib is installed editable in .* project is not in"):
        _ = environment.key


def test_a_pth_file_that_refers_to_another_directory_is_refused(venv: Path, tmp_path: Path) -> None:
    (site,) = venv.glob("lib/*/site-packages")
    write(site / "ours.pth", f"# paths\n{tmp_path / 'code'}\n")
    with pytest.raises(InvalidArgumentError, match=rf"outside of it.*: ours\.pth to {tmp_path}/code\. Install"):
        build(VenvEnvironment.from_prefix(venv), tmp_path / "prefix")


def test_links_into_a_cache_become_files(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
    install: list[str | Path] = [
        uv_binary(),
        "pip",
        "install",
        "--quiet",
        "--link-mode",
        "symlink",
        "--python",
        venv / "bin/python",
    ]
    subprocess.run([*install, "six"], check=True)
    build(VenvEnvironment.from_prefix(venv, bundle_python=False), tmp_path / "prefix")
    (module,) = (tmp_path / "prefix").glob("lib/*/site-packages/six.py")
    assert not module.is_symlink()


def test_a_directory_that_is_not_a_virtualenv_is_refused(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "conda" / "conda-meta").mkdir(parents=True)
    for place, message in (
        (tmp_path / "conda", r"is a conda environment\. Write CondaEnvironment\.from_prefix"),
        (tmp_path / "nowhere", r"is not a virtualenv: it has no pyvenv\.cfg"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            _ = VenvEnvironment.from_prefix(place).key
    settings = (venv / "pyvenv.cfg").read_text().replace("site-packages = false", "site-packages = true")
    write(venv / "pyvenv.cfg", settings)
    with pytest.raises(InvalidArgumentError, match="uses packages of the system's Python"):
        _ = VenvEnvironment.from_prefix(venv).key


def test_a_virtualenv_without_its_base_interpreter_is_refused(venv: Path, tmp_path: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nonexistent/python")
    with pytest.raises(BuildError, match=rf"bin/python is not a working CPython {OWN}"):
        build(VenvEnvironment.from_prefix(venv), tmp_path / "prefix")


def test_a_virtualenv_that_changes_while_it_is_built_is_not_published(venv: Path, tmp_path: Path) -> None:
    environment = VenvEnvironment.from_prefix(venv, bundle_python=False)
    key, store = environment.key, ArchiveStore(tmp_path / "store")

    def change(line: str) -> None:
        if line.startswith("pack:"):
            write(next(venv.glob("lib/*/site-packages")) / "added.py", "x = 1\n")

    with pytest.raises(InvalidArgumentError, match="its input files changed while it was built"):
        store.build(environment, timeout=60, progress=change)
    assert store.find(key) is None
