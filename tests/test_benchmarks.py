"""Sections, results and table of the benchmarks; `make bench` measures, tests do not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks import results, sections
from benchmarks.measure import Claim, Outcome, in_turns


@pytest.mark.parametrize("name", sections.NAMES)
def test_every_section_can_be_imported_and_has_a_docstring(name: str) -> None:
    run = sections.section(name)
    assert callable(run)
    assert __import__(run.__module__, fromlist=["run"]).__doc__


def test_the_performance_page_shows_the_saved_results() -> None:
    page = results.PAGE.read_text(encoding="utf-8")
    assert page == results.with_table(page, results.load()), "run `make bench`, which updates it"


def test_saved_results_are_well_formed() -> None:
    for name, result in results.load().items():
        assert name in sections.NAMES
        assert {"date", "machine", "versions", "peers", "figures", "claims", "notes"} == set(result)
        for claim in result["claims"]:
            assert claim["ours"] in result["figures"]
            assert claim["rival"] is None or claim["rival"] in result["figures"]
        assert all(figure["raw"] and figure["median"] > 0 for figure in result["figures"].values())


def test_alternatives_take_turns() -> None:
    calls: list[str] = []

    def run(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    found = in_turns({"a": partial(run, "a", 1.0), "b": partial(run, "b", 2.0)}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}, "the warm-up is not counted"


@pytest.mark.parametrize(
    ("claim", "met"),
    [
        (Claim("times less", "ours", "other", at_least=3.9), True),
        (Claim("times less", "ours", "other", at_least=4.1), False),
        (Claim("as much", "ours", "other", at_most=0.26), True),
        (Claim("as much", "ours", "other", at_most=0.24), False),
        (Claim("in itself", "ours", at_most=2.1), True),
        (Claim("in itself", "ours", at_most=1.9), False),
    ],
)
def test_medians_decide_whether_a_bound_is_met(claim: Claim, met: bool) -> None:
    outcome = Outcome({"ours": [1.0, 2.0, 90.0], "other": [8.0, 8.0, 0.1]}, (claim,)).to_dict()
    assert outcome["claims"][0]["met"] is met
    assert json.loads(json.dumps(outcome)) == outcome


def test_saving_a_section_keeps_the_results_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    monkeypatch.setattr(results, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(results, "peer_versions", lambda: {"pex": "2"})
    results.PAGE.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    outcome = Outcome({"ours": [1.0], "other": [8.0]}, (Claim("c", "ours", "other", at_least=4),))
    result = results.with_metadata(outcome.to_dict())
    results.save("find", result, order=sections.NAMES)
    first = results.load()["find"]
    results.save("pack", result, order=sections.NAMES)
    assert list(results.load()) == ["pack", "find"]
    assert results.load()["find"] == first
    page = results.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "| pack | c | 1.00 s | 8.00 s | 8.0x less | at least 4x |" in page
