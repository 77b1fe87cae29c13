"""Venvs built for another platform than this machine's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import BuildError

from ...support.build_contexts import build, make_context
from ...support.projects import make_library, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
OTHER = "linux-aarch64" if os.uname().machine != "aarch64" else "linux-x86_64"


def test_wheels_of_another_platform_are_installed_without_an_interpreter(tmp_path: Path) -> None:
    make_library(tmp_path / "my_lib")
    environment = VenvEnvironment(
        ["markupsafe", "tabulate", "./my_lib"], platform=OTHER, bundle_python=False, base_dir=tmp_path
    )
    built = build(environment, tmp_path / "prefix")
    assert built.interpreter is None
    assert built.packages.keys() == {"markupsafe", "my-lib", "tabulate"}
    (native,) = (tmp_path / "prefix").glob(f"lib/python{OWN}/site-packages/markupsafe/*.so")
    assert OTHER.removeprefix("linux-") in native.name
    script = tmp_path / "prefix" / "bin" / "tabulate"
    assert script.read_bytes().startswith(b"#!/bin/sh\n'''exec' \"$(dirname")
    assert os.access(script, os.X_OK)
    assert not [path for path in (tmp_path / "prefix").rglob("*") if path.name in (".lock", "direct_url.json")]


def test_a_lock_is_installed_for_that_platform(tmp_path: Path) -> None:
    text = 'lock-version = "1.0"\ncreated-by = "test"\n'
    here, there = (f"\"platform_machine == '{each}'\"" for each in (os.uname().machine, OTHER[6:]))
    for name, marker in (("six", here), ("tabulate", there)):
        text += f'[[packages]]\nname = "{name}"\nversion = "1"\nmarker = {marker}\n'
    path = write(tmp_path / "pylock.toml", text)
    environment = VenvEnvironment.from_file(path, platform=OTHER, bundle_python=False)
    assert environment.resolve_lock(make_context()) == ("tabulate==1",)


def test_a_package_without_a_wheel_for_the_platform_is_reported_by_the_resolver(tmp_path: Path) -> None:
    environment = VenvEnvironment(["pyspark==3.5.1"], platform=OTHER, bundle_python=False)
    with pytest.raises(BuildError, match="no usable wheels"):
        environment.resolve_lock(make_context())


def test_an_interpreter_of_another_platform_cannot_be_bundled(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=rf"can't build for {OTHER}\..*with bundle_python=False"):
        build(VenvEnvironment(["six"], platform=OTHER), tmp_path / "prefix")


def test_a_platform_that_uv_does_not_support_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="uv can't select wheels for linux-vax, only for linux-x86_64"):
        build(VenvEnvironment(["six"], platform="linux-vax", bundle_python=False), tmp_path / "prefix")
