"""The rules of the package's levels: imports only point down, there are no cycles, and only the top knows Airflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import airflow_provider_sparkdeps

ROOT = Path(airflow_provider_sparkdeps.__file__).parent
PACKAGE = ROOT.name
# A module imports from its own level and from those before it. All that is not named here is the top level.
LEVELS = ("exceptions", "utils", "environments", "archives", "spark")
# Inside spark/, likewise. What stands in one line does not import from each other.
SPARK = (
    {"endpoint", "conf", "pyspark_compat"},
    {"closures", "accumulators", "driver_python"},
    {"grpc_errors"},
    {"interceptor"},
    {"channel"},
    {"rpc"},
    {"session"},
    {"delivery"},
    {"attach", "broadcast"},
    {"embedded"},
)
FILES = sorted(ROOT.rglob("*.py"))
MODULES = {
    ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path for path in FILES
}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


IMPORTS = {module: set(imported(path)) for module, path in MODULES.items()}


def level(module: str) -> int:
    """Return the index of a module's level."""
    name = module.removeprefix(f"{PACKAGE}.").split(".")[0]
    return LEVELS.index(name) if name in LEVELS else len(LEVELS)


def spark_level(module: str) -> int:
    name = module.split(".")[2]
    return next(index for index, names in enumerate(SPARK) if name in names)


def ours(module: str) -> set[str]:
    return {name for name in IMPORTS[module] if name.split(".")[0] == PACKAGE}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    for name in ours(module):
        assert name != PACKAGE, f"{module} imports the root"
        assert level(name) <= level(module), f"{module} imports {name}"
        spark = f"{PACKAGE}.spark."
        if module.startswith(spark) and name.startswith(spark):
            here, there = spark_level(module), spark_level(name)
            same = module.split(".")[2] == name.split(".")[2]
            assert same or there < here, f"{module} imports {name}"


@pytest.mark.parametrize("module", [module for module in MODULES if level(module) < len(LEVELS)])
def test_only_the_top_level_imports_airflow_and_only_spark_imports_pyspark(module: str) -> None:
    tops = {name.split(".")[0] for name in IMPORTS[module]}
    assert "airflow" not in tops
    if level(module) < LEVELS.index("spark"):
        assert not tops & {"pyspark", "grpc"}


def test_there_are_no_import_cycles() -> None:
    try:
        TopologicalSorter({module: ours(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in MODULES if "executor" in module.split(".")])
def test_code_for_executors_says_so_and_imports_what_executors_have(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    allowed = {*sys.stdlib_module_names, "pyspark", f"{PACKAGE}.spark.accumulators.codec"}
    if tree.body:
        assert "executor" in (ast.get_docstring(tree) or "").splitlines()[0]
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            assert str(node.module).split(".")[0] in allowed or full <= allowed or node.module in allowed


def test_importing_environments_and_archives_loads_nothing_heavy() -> None:
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
