"""The Python blocks of README.md and docs/ run: each page as one file, DAGs by Airflow, all on a real Spark server."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_sparkdeps import ArchiveStore, Endpoint, Session, VenvEnvironment, broadcast
from airflow_provider_sparkdeps.cli import main
from airflow_provider_sparkdeps.environments import Environment
from airflow_provider_sparkdeps.spark.accumulators import Accumulators
from airflow_provider_sparkdeps.spark.closures.by_value import pickle_by_value
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer

from ..support.documents import PAGES, ROOT, as_module, blocks

# What pages have in place of the test's own server.
SERVER = 'Endpoint(host="spark.example.com")'
# What the tasks of a page return.
RESULTS = {
    "parse": 2,
    "profile": [7, -1, ["DE", "FR"], {"negative": 1}, [("FR", -1)]],
    "sum_vectors": [3, [4.0, 6.0]],
    "write_orders": [1, 7],
    "score": [0.0, 1.0, 2.0],
    "normalize": ["spark", "airflow"],
    "count_rows": 3,
}
# Files that environments on the pages name.
FILES = {
    "my_lib/pyproject.toml": '[project]\nname = "my-lib"\nversion = "1"\n',
    "requirements.txt": "six==1.16.0\n",
    "pyproject.toml": (
        '[project]\nname = "project"\nversion = "1"\ndependencies = ["six"]\n'
        '[project.optional-dependencies]\nscoring = ["idna"]\n[dependency-groups]\nspark = ["humanize"]\n'
    ),
    "pylock.toml": 'lock-version = "1.0"\ncreated-by = "test"\n[[packages]]\nname = "six"\nversion = "1.16.0"\n',
    "environment.yml": "channels: [conda-forge]\ndependencies: [six]\n",
    "conda-lock.yml": (
        "package:\n- {name: six, version: 1.17.0, manager: conda, platform: linux-64, dependencies: {}, "
        "url: 'https://conda.example.com/noarch/six-1.17.0-pyhe01879c_1.conda', hash: {md5: "
        "ba3e8bd1a1e1b1ed1ccf1eff9b8c5f32}}\n"
    ),
}
# Environments that name prefixes and PEX files, which would take long to make.
NOT_THERE = ("copied", "maps_prefix", "maps_name", "finished")

Pages = dict[Path, ModuleType]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs")


@pytest.fixture(scope="module")
def pages(folder: Path, server: EmbeddedServer) -> Iterator[Pages]:
    """All pages, imported one after the other in a directory that holds a store with the environment of their DAGs."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    ArchiveStore(folder / "archives").build(VenvEnvironment(["humanize==4.*", "pyarrow"]), timeout=300)
    connection = {"conn_type": "sparkdeps", "host": server.host, "port": server.port}
    written = {page: f"page_{page.stem.replace('-', '_')}" for page in PAGES if as_module(page).strip()}
    for page, name in written.items():
        source = as_module(page)
        source = source.replace(SERVER, f"Endpoint(host={server.host!r}, port={server.port})")
        (folder / f"{name}.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch, pickle_by_value(folder):
        patch.chdir(folder)
        patch.setenv("AIRFLOW_CONN_SPARKDEPS_DEFAULT", json.dumps(connection))
        patch.syspath_prepend(folder)
        yield {page: importlib.import_module(name) for page, name in written.items()}
        for name in written.values():
            del sys.modules[name]


def decorated(page: ModuleType, decorator: str) -> Iterator[str]:
    """Yield the names of the functions of a page that have a decorator."""
    for node in ast.parse(Path(str(page.__file__)).read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found = [ast.unparse(each).partition("(")[0] for each in node.decorator_list]
            if decorator in found:
                yield node.name


def test_every_page_is_imported_as_a_dag_file_would_be(pages: Pages) -> None:
    assert {page.stem for page in pages} >= {"README", "environments", "archives", "accumulators", "notebooks"}


def test_environments_on_pages_have_keys(pages: Pages) -> None:
    keys = set()
    for page in pages.values():
        for name, value in vars(page).items():
            if isinstance(value, Environment) and name not in NOT_THERE:
                keys.add(value.key)
    assert len(keys) >= 10


def test_tasks_on_pages_return_what_the_page_says(pages: Pages, server: EmbeddedServer) -> None:
    found: dict[str, Any] = {}
    for page in pages.values():
        for name in decorated(page, "task.spark_connect"):
            with Session(Endpoint(host=server.host, port=server.port)) as session:
                task = getattr(page, name)
                found[name] = call(session, inspect.unwrap(task.function), task.kwargs.get("accumulators") or {})
    assert found == RESULTS


def call(session: Session, function: Any, accumulators: Mapping[str, Any]) -> Any:
    made = {name: session.accumulator(name, initial) for name, initial in accumulators.items()}
    given = {
        "spark": session.spark,
        "accumulators": Accumulators(made, session.accumulator),
        "broadcast": partial(broadcast, session),
    }
    return function(**{name: given[name] for name in function.__code__.co_varnames[: function.__code__.co_argcount]})


def test_the_closure_report_is_what_the_command_prints(
    pages: Pages, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "shipping-code.md"
    (script,) = (block.text for block in blocks(page, "python") if block.text.startswith("# scoring.py"))
    (folder / "scoring.py").write_text(script)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (archive,) = ArchiveStore(folder / "archives").list_archives()
    main(["closure", "scoring:score", "--store", str(folder / "archives"), "--archive", archive.key[:8]])
    (shown,) = (block.text for block in blocks(page, "text"))
    assert cells(capsys.readouterr().out) == cells(shown)


def cells(table: str) -> list[list[str]]:
    """The words of a table, without its lines and with # for its figures, which depend on the release of Python."""
    return [re.sub(r"[\d,.]+", "#", re.sub(r"[^\w\s`'().,:=#>-]", " ", line)).split() for line in table.splitlines()]


def test_dags_on_pages_succeed(pages: Pages, folder: Path) -> None:
    names = [f"{page.__name__}:{name}" for page in pages.values() for name in decorated(page, "dag")]
    assert len(names) == 4
    dags = folder / "dags"
    dags.mkdir()
    for module in {name.partition(":")[0] for name in names}:
        (dags / f"{module}.py").symlink_to(folder / f"{module}.py")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")} | {
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__SPARKDEPS__ARCHIVE_STORE": str(folder / "archives"),
    }
    script = ROOT / "tests" / "support" / "run_dags.py"
    done = subprocess.run(
        [sys.executable, str(script), *names], env=environ, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "['1.2 million', None, '42'] {'bad_rows': 1}" in done.stdout
