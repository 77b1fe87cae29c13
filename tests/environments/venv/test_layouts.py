"""Generated workspaces: what is installed is what uv and pip install from the same files."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.prefix.site_packages import installed
from airflow_provider_sparkdeps.environments.uv import uv_binary

from ...support.build_contexts import build
from ...support.package_index import Index
from ...support.projects import make_library, write

INDEX = ("ant", "bee<2", "cow", "dog>1", "ant==1.0 ; python_version < '3'", "cow<2 ; sys_platform == 'linux'")


@dataclass
class Layout:
    """A uv workspace, or a project with path sources, and what is selected of one of its projects."""

    seed: int
    project: Path = Path()
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def write(self, root: Path) -> None:
        """Write the projects."""
        rng = random.Random(self.seed)
        is_workspace = rng.random() < 0.7
        self.names = [f"member-{number}" for number in range(rng.randint(2, 4))]
        for number, name in enumerate(self.names):
            later = self.names[number + 1 :]
            siblings = rng.sample(later, rng.randint(0, min(2, len(later))))
            self._write_project(root, name, siblings, rng, is_workspace)
        settings = rng.choice(["", "constraint-dependencies = ['ant<2']", "override-dependencies = ['cow==1.0']"])
        if is_workspace:
            write(root / "pyproject.toml", f"[tool.uv.workspace]\nmembers = ['libs/*']\n[tool.uv]\n{settings}\n")
        self.project = root / "libs" / self.names[0]
        self.extras = rng.sample(["x", "all"], rng.randint(0, 2))
        self.groups = rng.sample(["g", "h"], rng.randint(0, 2))

    def _write_project(
        self, root: Path, name: str, siblings: list[str], rng: random.Random, is_workspace: bool
    ) -> None:
        def some(most: int) -> list[str]:
            return rng.sample(INDEX, rng.randint(0, most))

        needed = ["ant", *some(2)]
        needed += [f"{each}[x]" if rng.random() < 0.4 else each for each in siblings]
        # The same package in several places must have one version.
        extra, group = some(1), some(1)
        source = "{{ workspace = true }}" if is_workspace else '{{ path = "../{}", editable = {} }}'
        sources = "".join(f"{each} = {source.format(each, rng.choice(['true', 'false']))}\n" for each in siblings)
        more = (
            f"dependencies = {needed}\n[project.optional-dependencies]\nx = {extra}\n"
            f'all = ["{name}[x]", "bee"]\n[dependency-groups]\ng = {group}\n'
            f'h = [{{ include-group = "g" }}, "{name}[x]"]\n[tool.uv.sources]\n{sources}'
        )
        make_library(root / "libs" / name, name=name, more=more)


def run(*command: str | Path, cwd: Path, **environ: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, env={**os.environ, **environ}, stdin=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.soak] if seed > 3 else []) for seed in range(10)]
)
def test_a_lock_installs_what_uv_and_pip_install(seed: int, strangers: Index, tmp_path: Path) -> None:
    layout = Layout(seed)
    layout.write(tmp_path / "w")
    uv: list[str | Path] = [uv_binary(), "--quiet"]
    run(*uv, "lock", "--python", sys.executable, cwd=layout.project)
    chosen = [part for each in layout.extras for part in ("--extra", each)]
    chosen += ["--no-default-groups", *(part for each in layout.groups for part in ("--group", each))]
    environment = VenvEnvironment.from_file(
        layout.project / "pyproject.toml", extras=layout.extras, groups=layout.groups, bundle_python=False
    )
    found = dict(build(environment, tmp_path / "prefix").packages)

    options = ["--locked", "--no-install-project", "--no-editable", "--python", sys.executable]
    run(*uv, "sync", *options, *chosen, cwd=layout.project, UV_PROJECT_ENVIRONMENT=str(tmp_path / "synced"))
    assert found == installed(tmp_path / "synced")

    hashed = tmp_path / "requirements.txt"
    local: list[str | Path] = ["--no-emit-local", "--format", "requirements-txt", "--output-file", hashed]
    run(*uv, "export", "--locked", *local, *chosen, cwd=layout.project)
    if "--hash" in hashed.read_text():
        target = tmp_path / "pip" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--quiet",
            "--disable-pip-version-check",
            "--isolated",
            "install",
        ]
        index = ["--index-url", strangers.url, "--trusted-host", "127.0.0.1"]
        run(*pip, *index, "--require-hashes", "--target", target, "-r", hashed, cwd=tmp_path)
        from_hashes = VenvEnvironment.from_file(hashed, bundle_python=False)
        assert dict(build(from_hashes, tmp_path / "hashed").packages) == installed(tmp_path / "pip")
    assert not strangers.names_asked() & set(layout.names)
