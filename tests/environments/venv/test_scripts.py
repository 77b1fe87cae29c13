"""Scripts of packages, whatever Python they ask for, in all kinds of venvs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives.contents import scan_prefix
from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.uv import uv_binary

from ...support.build_contexts import build
from ...support.package_index import make_wheel

SCRIPTS = {
    "path": "#!/usr/bin/python",
    "path3": "#!/usr/bin/python3",
    "env3": "#!/usr/bin/env python3",
    "isolated": "#!/usr/bin/python -s",
    "placeholder": "#!python",
}
OTHER = "linux-aarch64" if os.uname().machine != "aarch64" else "linux-x86_64"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel with scripts."""
    made = make_wheel(tmp_path_factory.mktemp("wheel"), "scripted", "1.0")
    with zipfile.ZipFile(made, "a") as archive:
        for name, first in SCRIPTS.items():
            body = f'{first}\n"""About {name}"""\nimport sys, scripted\nprint(sys.prefix, __doc__)\n'
            entry = zipfile.ZipInfo(f"scripted-1.0.data/scripts/{name}")
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, body)
    return made


def check(prefix: Path, *, runs: bool = True) -> None:
    scan_prefix(prefix, interpreter="bin/python" if runs else None)
    for name in SCRIPTS:
        script = prefix / "bin" / name
        assert script.read_bytes().startswith(b"#!/bin/sh\n'''exec' \"$(dirname")
        assert os.access(script, os.X_OK)
        if runs:
            done = subprocess.run([script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
            assert done.stdout.strip() == f"{prefix} About {name}", done.stderr


def test_they_run_the_python_of_a_venv_from_requirements(wheel: Path, tmp_path: Path) -> None:
    build(VenvEnvironment([str(wheel)]), tmp_path / "prefix")
    check((tmp_path / "prefix").rename(tmp_path / "moved"))


def test_they_run_the_python_of_executors_of_another_platform(wheel: Path, tmp_path: Path) -> None:
    build(VenvEnvironment([str(wheel)], platform=OTHER, bundle_python=False), tmp_path / "prefix")
    check(tmp_path / "prefix", runs=False)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_they_run_the_python_of_a_copied_virtualenv(installer: str, wheel: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
    where: list[str | Path] = ["--python", venv / "bin" / "python"]
    commands: dict[str, list[str | Path]] = {
        "uv": [uv_binary(), "pip", "install", *where],
        "pip": [sys.executable, "-m", "pip", "--disable-pip-version-check", *where, "install", "--no-index"],
    }
    subprocess.run([*commands[installer], "--quiet", wheel], check=True)
    build(VenvEnvironment.from_prefix(venv), tmp_path / "prefix")
    check((tmp_path / "prefix").rename(tmp_path / "moved"))


def test_scripts_named_like_those_of_a_venv_are_kept(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([uv_binary(), "venv", "--quiet", "--python", sys.executable, venv], check=True)
    names = ["activate-global-python-argcomplete", "python3-wget", "python-argcomplete-check-easy-install-script"]
    for name in names:
        (venv / "bin" / name).write_text("#!/bin/sh\n")
    build(VenvEnvironment.from_prefix(venv, bundle_python=False), tmp_path / "prefix")
    assert sorted(path.name for path in (tmp_path / "prefix" / "bin").iterdir()) == sorted(names)
