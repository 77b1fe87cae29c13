"""PEX environments as values: what they accept, and what their key depends on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import Environment, PexEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.pexes import MINOR


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file whose contents are not read before it is built."""
    (tmp_path / "pex").mkdir()
    (tmp_path / "pex/app.pex").touch()
    return tmp_path / "pex/app.pex"


def test_order_whitespace_and_comments_make_no_difference() -> None:
    one, other = PexEnvironment(["six", "Tabulate >= 0.9"]), PexEnvironment(["tabulate>=0.9  # for six", "six"])
    assert one == other
    assert one.key == other.key


def test_it_survives_a_round_trip_through_plain_data(file: Path) -> None:
    for environment in (
        PexEnvironment(["six"]),
        PexEnvironment.from_pex(file),
        PexEnvironment(["six"], python="3.13"),
    ):
        assert str(file.parent) not in str(environment.to_dict())
        again = Environment.from_dict({**environment.to_dict(), "base_dir": file.parent})
        assert (type(again), again.key, again.python_minor) == (
            PexEnvironment,
            environment.key,
            environment.python_minor,
        )


def test_the_key_depends_on_the_contents_of_the_file_and_not_on_its_path(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path / "renamed.pex"))
    key = PexEnvironment.from_pex(file).key
    assert PexEnvironment.from_pex(copy).key == key
    with copy.open("ab") as changed:
        changed.write(b"\n")
    assert PexEnvironment.from_pex(copy).key != key
    assert PexEnvironment.from_pex(file, python="3.99").key != key


def test_a_missing_file_is_reported_when_the_key_is_asked_for(tmp_path: Path) -> None:
    environment = PexEnvironment.from_pex(tmp_path / "missing.pex")
    assert str(environment.title) == f"pex of missing.pex (Python {MINOR})"
    with pytest.raises(InvalidArgumentError, match=r"Could not read .*missing\.pex: No such file"):
        _ = environment.key


@pytest.mark.parametrize("nothing", [{}, {"requirements": []}])
def test_an_environment_without_requirements_is_refused(nothing: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="requirements"):
        PexEnvironment(**nothing)


def test_a_pex_and_requirements_exclude_each_other() -> None:
    with pytest.raises(InvalidArgumentError, match="exclude each other"):
        PexEnvironment(["six"], pex="app.pex")
    with pytest.raises(InvalidArgumentError, match="is not a path"):
        PexEnvironment(pex="")


def test_a_relative_path_starts_where_the_environment_is_created(file: Path) -> None:
    code = "from airflow_provider_sparkdeps.environments import PexEnvironment as P; key = P.from_pex('app.pex').key"
    names: dict[str, object] = {"__file__": str(file.with_name("dag.py")), "__name__": "dag"}
    exec(code, names)
    assert names["key"] == PexEnvironment.from_pex(file).key
