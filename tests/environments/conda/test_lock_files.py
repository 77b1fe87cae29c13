"""Environments from lock files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import CondaEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from .test_specs import SHA, SIX


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_locks_of_all_formats_with_the_same_packages_have_the_same_key(tmp_path: Path) -> None:
    sha = SHA.removeprefix("sha256:")
    explicit = f"# made by conda\n@EXPLICIT\n{SIX}#{SHA}\n"
    other = {"conda": "https://example.com/channel/win-64/x-1-0.conda", "sha256": sha}
    selected = {"linux-64": [{"conda": SIX}], "win-64": [{"conda": other["conda"]}]}
    pixi = {
        "version": 6,
        "environments": {"default": {"packages": selected}, "other": {"packages": {"linux-64": []}}},
        "packages": [{"conda": SIX, "sha256": sha}, other],
    }
    package = {"name": "six", "version": "1.17.0", "manager": "conda", "hash": {"sha256": sha}, "url": SIX}
    conda_lock = {"version": 1, "package": [{**package, "platform": "linux-64"}, {**package, "platform": "osx-64"}]}
    paths = [
        write(tmp_path / "explicit.txt", explicit),
        write(tmp_path / "pixi.lock", json.dumps(pixi)),
        write(tmp_path / "conda-lock.yml", json.dumps(conda_lock)),
    ]
    keys = {CondaEnvironment.from_lock(path, platform="linux-x86_64").key for path in paths}
    assert keys == {CondaEnvironment(explicit=[f"{SIX}#{SHA}"], platform="linux-x86_64").key}


def test_pip_packages_of_a_lock_are_included(tmp_path: Path) -> None:
    wheel = "https://example.com/files/tabulate-0.9.0-py3-none-any.whl"
    git = "git+https://example.com/ours.git?rev=1#abc"
    selected = [{"conda": SIX}, {"pypi": wheel}, {"pypi": f"direct+{wheel}2.whl"}, {"pypi": git}]
    packages = [
        {"conda": SIX},
        {"pypi": wheel, "name": "tabulate", "version": "0.9.0"},
        {"pypi": f"direct+{wheel}2.whl", "name": "direct", "version": "1"},
        {"pypi": git, "name": "ours", "version": "1"},
    ]
    pixi = {"environments": {"default": {"packages": {"linux-64": selected}}}, "packages": packages}
    path = write(tmp_path / "pixi.lock", json.dumps(pixi))
    pip = (f"direct @ {wheel}2.whl", f"ours @ {git}", "tabulate==0.9.0")
    expected = CondaEnvironment(explicit=[SIX], pip=pip, platform="linux-x86_64")
    assert CondaEnvironment.from_lock(path, platform="linux-x86_64").key == expected.key


def test_a_lock_for_other_platforms_only_is_rejected(tmp_path: Path) -> None:
    pixi = {"environments": {"default": {"packages": {"win-64": []}}}, "packages": []}
    path = write(tmp_path / "pixi.lock", json.dumps(pixi))
    with pytest.raises(InvalidArgumentError, match="is not a conda lock for linux-64"):
        _ = CondaEnvironment.from_lock(path, platform="linux-x86_64").key
