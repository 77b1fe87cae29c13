"""Venvs built from files and local projects, with real uv and real packages."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError

from ...support.build_contexts import build, make_context, run_python
from ...support.package_index import make_wheel
from ...support.projects import digests, make_library, write


def test_constraints_apply_but_are_not_installed(tmp_path: Path) -> None:
    write(tmp_path / "requirements.txt", "-c limits.txt\nsix; python_version > '3'\ntoolz; python_version < '3'")
    write(tmp_path / "limits.txt", "six==1.16.0\ntabulate==0.9.0\n")
    environment = VenvEnvironment.from_file(tmp_path / "requirements.txt", bundle_python=False)
    assert build(environment, tmp_path / "prefix").lock == ("six==1.16.0",)


def test_the_exact_packages_of_a_uv_lock_are_installed(tmp_path: Path) -> None:
    project = tmp_path / "app"
    make_library(project / "libs" / "my_lib")
    write(
        project / "pyproject.toml",
        '[project]\nname = "app"\nversion = "1"\nrequires-python = ">=3.11"\n'
        'dependencies = ["six<1.17", "my-lib", "toolz; python_version < \'3.11\'"]\n'
        '[project.optional-dependencies]\nfast = ["markupsafe==3.0.2"]\n'
        '[dependency-groups]\ndev = ["tabulate==0.9.0"]\n'
        '[tool.uv.sources]\nmy-lib = { path = "libs/my_lib", editable = true }\n',
    )
    subprocess.run([uv_binary(), "lock", "--quiet", "--python", sys.executable], cwd=project, check=True)
    # The versions of the lock are installed, and not those that would be resolved today.
    lock = project / "uv.lock"
    assert 'version = "1.16.0"' in lock.read_text()
    before = digests(project)
    environment = VenvEnvironment.from_file(project / "pyproject.toml", extras=["fast"], bundle_python=False)
    built = build(environment, tmp_path / "prefix")
    assert built.packages == {"markupsafe": "3.0.2", "my-lib": "1.0", "six": "1.16.0"}
    assert [line.split(" ")[0] for line in built.lock] == ["markupsafe==3.0.2", "my-lib==1.0", "six==1.16.0"]
    assert digests(project) == before, "the project was written to"
    assert str(tmp_path) not in "".join(built.lock)
    grouped = VenvEnvironment.from_file(lock, groups=["dev"], bundle_python=False)
    resolved = grouped.resolve_lock(make_context())
    assert "tabulate==0.9.0" in resolved


def test_a_pylock_is_installed_for_this_python_only(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "wheels", "by-path", "1.0")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    wheel_lines = f'wheels = [{{ path = "wheels/{wheel.name}", hashes = {{ sha256 = "{digest}" }} }}]\n'
    pylock = tmp_path / "pylock.toml"
    write(tmp_path / "in.txt", "six==1.16.0\ntoolz\n")
    command: list[str | Path] = ["pip", "compile", "--quiet", "--format", "pylock.toml", "-o", pylock, "in.txt"]
    subprocess.run([uv_binary(), *command, "--python", sys.executable], cwd=tmp_path, check=True)
    text = pylock.read_text().replace('name = "toolz"', 'name = "toolz"\nmarker = "\'fast\' in extras"')
    head, _, rest = text.partition("\n\n[[packages]]")
    text = f'{head}\nextras = ["fast"]\n\n[[packages]]{rest}'
    write(pylock, f'{text}\n[[packages]]\nname = "by-path"\nversion = "1.0"\n{wheel_lines}')
    plain = VenvEnvironment.from_file(pylock, bundle_python=False)
    built = build(plain, tmp_path / "prefix")
    assert built.packages == {"by-path": "1.0", "six": "1.16.0"}
    assert built.lock == (f"by-path==1.0 (sha256 {digest})", "six==1.16.0")
    fast = VenvEnvironment.from_file(pylock, extras=["fast"], bundle_python=False)
    assert build(fast, tmp_path / "fast").packages.keys() == {"by-path", "six", "toolz"}


@pytest.mark.slow
def test_projects_and_wheels_are_copied_with_their_dependencies(tmp_path: Path) -> None:
    # setuptools writes files into the directory of the project.
    make_library(tmp_path / "my_lib", more='dependencies = ["six==1.16.0"]', backend="setuptools.build_meta")
    wheel = make_wheel(tmp_path / "dist", "by-path", "2.0", requires=("tabulate==0.9.0",))
    before = digests(tmp_path)
    environment = VenvEnvironment(["-e ./my_lib", f"./dist/{wheel.name}"], base_dir=tmp_path)
    built = build(environment, tmp_path / "prefix")
    after = {name: digest for name, digest in digests(tmp_path).items() if not name.startswith("prefix/")}
    assert after == before, "something was written next to the sources"
    shutil.rmtree(tmp_path / "my_lib")
    verify_prefix((tmp_path / "prefix").rename(tmp_path / "moved"), built, deadline=make_context().deadline)
    code = "import my_lib, by_path, six, tabulate; print(my_lib.ANSWER, by_path.VERSION)"
    assert run_python(tmp_path / "moved", code) == "42 2.0"
    assert [line.split(" ")[0] for line in built.lock] == [
        "by-path==2.0", "my-lib==1.0", "six==1.16.0", "tabulate==0.9.0",
    ]  # fmt: skip


def test_builds_in_different_directories_have_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for place in ("one", "else/where"):
        root = tmp_path / place
        make_library(root / "my_lib")
        wheel = make_wheel(root, "by-path", "2.0")
        environment = VenvEnvironment(["./my_lib", f"./{wheel.name}"], base_dir=root, bundle_python=False)
        built = build(environment, root / "prefix")
        found.append((environment.key, built.lock, digests(root / "prefix")))
    # Only the digest of the wheel depends on the time at which it was written.
    assert found[0][2] == found[1][2]
    assert found[0][1][1] == found[1][1][1]


def test_a_failed_build_of_a_project_is_reported_with_its_output(tmp_path: Path) -> None:
    make_library(tmp_path / "my_lib", more='dependencies = ["not => valid"]')
    with pytest.raises(BuildError, match=r"(?s)Its output:\n\n.*Failed to build `my-lib @ file:.*not => valid"):
        build(VenvEnvironment(["./my_lib"], base_dir=tmp_path), tmp_path / "prefix")
