"""The house's rule: four floors, whose imports only point down, and only the top one knows Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_sparkdeps

ROOT = Path(airflow_provider_sparkdeps.__file__).parent
PACKAGE = ROOT.name
# What each floor may import of this package, besides itself and `exceptions`, which is the ground.
FLOORS = {"environments": set(), "archives": {"environments"}, "spark": {"environments", "archives"}}
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_floors_1_to_3_point_down_and_never_to_airflow(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        top, *rest = name.split(".")
        assert top != "airflow", f"{path} imports {name}"
        if top == PACKAGE:
            assert rest[0] in {floor, "exceptions", "utils", "__version__"} | FLOORS[floor], f"{path} imports {name}"
        if floor != "spark":
            assert top not in {"pyspark", "grpc"}, f"{path} imports {name}"


def test_importing_environments_and_archives_brings_in_nothing_heavy() -> None:
    code = (
        f"import sys, {PACKAGE}.environments, {PACKAGE}.archives\n"
        f"{PACKAGE}.environments.VenvEnvironment(['six']).key\n"
        f"{PACKAGE}.environments.CondaEnvironment(['six'], channels=['c'], pip=['six']).key\n"
        f"{PACKAGE}.archives.ArchiveStore('/nowhere').find('0' * 64)\n"
        "heavy = {'airflow', 'pyspark', 'grpc', 'isal', 'upath', 'fsspec', 'uv', 'pandas', 'pyarrow',  "
        "'rattler', 'conda_pack', 'yaml', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_dag_file_that_imports_environments_loads_few_modules() -> None:
    # Airflow has loaded these modules of the standard library before it parses a DAG file.
    code = (
        "import dataclasses, hashlib, inspect, json, pathlib, re, sys, typing\n"
        "before = {*sys.modules}\n"
        f"import {PACKAGE}.environments\n"
        "print(*sorted({*sys.modules} - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {*done.stdout.split()} - {"__future__"}
    environments = {"environments"} | {
        f"environments.{name}" for name in ("base", "context", "uv_environment", "venv", "conda", "pex")
    }
    assert loaded <= {PACKAGE} | {
        f"{PACKAGE}.{name}" for name in environments | {"exceptions", "utils", "utils.platforms"}
    }
