"""Installed conda environments are packed as they are."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import CondaEnvironment, Environment
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import make_context
from ...support.conda_builds import Builder, relocate
from ...support.conda_channel import MINOR


@pytest.fixture
def existing(channel: str, tmp_path: Path) -> Path:
    """An environment installed by rattler, which writes the same records as conda."""
    import rattler

    prefix = tmp_path / "envs" / "tasting"

    async def install() -> None:
        specs = ["cheese=1.0", "cellar", f"python {MINOR}.*"]
        await rattler.install(await rattler.solve([channel], specs), prefix, show_progress=False)

    asyncio.run(install())
    return prefix


def test_it_is_packed_as_it_is_and_runs_elsewhere(build: Builder, existing: Path) -> None:
    environment = CondaEnvironment.from_prefix(existing)
    assert environment.python_minor == MINOR
    lock = environment.resolve_lock(make_context())
    moved, built = build(environment=environment)
    existing.rename(existing.with_name("gone"))
    verify_prefix(moved, built, deadline=make_context().deadline)
    assert built.packages == {"cheese": "1.0"}
    assert built.lock == lock
    assert [line.split()[0] for line in built.lock][:2] == ["cellar=1.0=h0_0", "cheese=1.0=py_0"]


def test_its_key_depends_on_its_packages_and_not_on_its_path(existing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = CondaEnvironment.from_prefix(existing)
    key = environment.key
    data = json.loads(json.dumps(environment.to_dict()))
    assert Environment.from_dict({**data, "base_dir": str(existing.parent)}).key == key
    copy = Path(shutil.copytree(existing, existing.with_name("copy"), symlinks=True))
    assert CondaEnvironment.from_prefix(copy).key == key
    assert CondaEnvironment.from_prefix("copy", base_dir=copy.parent).key == key
    next(existing.glob("conda-meta/cellar-*.json")).unlink()
    assert environment.key != key


def test_an_environment_that_changes_while_it_is_built_is_not_published(existing: Path, tmp_path: Path) -> None:
    environment = CondaEnvironment.from_prefix(existing)
    key, store = environment.key, ArchiveStore(tmp_path / "store")

    def change(line: str) -> None:
        if line.startswith("pack:"):
            next(existing.glob("conda-meta/cellar-*.json")).unlink()

    with pytest.raises(InvalidArgumentError, match="its input files changed while it was built"):
        store.build(environment, timeout=60, progress=change)
    assert store.find(key) is None


def test_python_must_be_the_one_of_the_environment(existing: Path) -> None:
    environment = CondaEnvironment.from_prefix("tasting", base_dir=existing.parent, python=MINOR)
    assert environment.key == CondaEnvironment.from_prefix(existing).key
    assert Environment.from_dict({**environment.to_dict(), "base_dir": existing.parent}) == environment
    with pytest.raises(InvalidArgumentError, match=rf"has Python {MINOR}, not python='3\.4'"):
        _ = CondaEnvironment.from_prefix(existing, python="3.4").key


def test_the_error_for_missing_files_of_conda_packages_names_the_fix(build: Builder, existing: Path) -> None:
    next(existing.glob("lib/python3.*/site-packages/cheese/__init__.py")).unlink()
    message = r"packages cheese 1\.0 are missing .*cheese/__init__\.py.*ignore_missing_files"
    with pytest.raises(BuildError, match=message):
        build(environment=CondaEnvironment.from_prefix(existing))
    moved, _ = build(environment=CondaEnvironment.from_prefix(existing, ignore_missing_files=True))
    assert (moved / "bin" / "cellar").exists()


def test_editable_packages_are_rejected(build: Builder, existing: Path) -> None:
    (info,) = existing.glob("lib/python3.*/site-packages/cheese-1.0.dist-info")
    (info / "direct_url.json").write_text('{"url": "file:///home/me", "dir_info": {"editable": true}}')
    with pytest.raises(BuildError, match="has editable packages, whose code is in another directory: cheese"):
        build(environment=CondaEnvironment.from_prefix(existing))


def test_it_is_packed_after_the_package_cache_was_cleaned(build: Builder, existing: Path) -> None:
    for path in existing.glob("conda-meta/*.json"):
        path.write_text(path.read_text().replace(os.environ["RATTLER_CACHE_DIR"], "/cleaned"))
    lines: list[str] = []
    moved, built = build(environment=CondaEnvironment.from_prefix(existing), lines=lines)
    verify_prefix(moved, built, deadline=make_context().deadline)
    assert any("without entries in the package cache" in line for line in lines)
    relocate(moved, built, "/opt/elsewhere")
    assert (moved / "share/cellar/where.txt").read_text().startswith("data=/opt/elsewhere/")


@pytest.mark.parametrize("variable", ["CONDA_ENVS_PATH", "MAMBA_ROOT_PREFIX", "CONDA_EXE", "CONDA_PREFIX", "HOME"])
def test_it_is_found_by_name(existing: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    root = existing.parent.parent
    values = {"CONDA_ENVS_PATH": existing.parent, "CONDA_EXE": root / "bin/conda"}
    for name in ("CONDA_ENVS_DIRS", "CONDA_ENVS_PATH", "MAMBA_ROOT_PREFIX", "CONDA_EXE", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv(variable, str(values.get(variable, root)))
    if variable == "HOME":
        (root / ".conda").mkdir()
        (root / ".conda/environments.txt").write_text(f"/elsewhere\n{existing}\n")
    environment = CondaEnvironment.from_name("tasting")
    assert environment.key == CondaEnvironment.from_prefix(existing).key
    assert Environment.from_dict(environment.to_dict()).key == environment.key
    with pytest.raises(InvalidArgumentError, match="There is no conda environment 'nosuch' in"):
        _ = CondaEnvironment.from_name("nosuch").key


def test_a_directory_that_is_not_a_conda_environment_is_rejected(tmp_path: Path) -> None:
    environment = CondaEnvironment.from_prefix(tmp_path)
    with pytest.raises(InvalidArgumentError, match="is not a conda environment"):
        _ = environment.key
    (tmp_path / "conda-meta").mkdir()
    with pytest.raises(InvalidArgumentError, match="has no Python from conda"):
        _ = environment.key
