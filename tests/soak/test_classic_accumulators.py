"""PySpark's accumulators in classic mode count what docs/accumulators.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.classic import Classic
from benchmarks.setting import ROOT

pytestmark = pytest.mark.soak

# From queries of `benchmarks.classic` to rows of the page's table.
ROWS = {
    "plain": "plain",
    "order": "`orderBy`",
    "range": "`repartitionByRange`",
    "filter": "filter",
    "self-join": "joined with itself",
    "join": "joined with 500",
    "union": "united with 500",
    "cache": "cached",
    "retried, shuffled": "a task fails",
    "killed": "an executor dies",
    "failed": "failed",
    "registered, order": "registered function, `orderBy`",
    "registered, join": "registered function on both sides",
}


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Classic]:
    with Classic(tmp_path_factory.mktemp("classic")) as running:
        yield running


@pytest.mark.parametrize("query", [*(name for name in ROWS if name != "killed"), "killed"])
def test_classic_accumulators_count_what_the_docs_say(classic: Classic, query: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "accumulators.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {re.escape(ROWS[query])}.*$", page, re.MULTILINE)
    expected = row.rstrip(" |").rpartition("| ")[2]
    found = classic.run("counted_rows", query, str(tmp_path / "marker"))
    if expected.startswith("more than"):
        assert found > int(expected.split()[-1])
    else:
        assert found == int(expected)
