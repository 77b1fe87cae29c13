"""The benchmarks' bookkeeping; what they measure is measured by `make bench`, and never here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import results, sections
from benchmarks.measure import Claim, Outcome, in_turns


@pytest.mark.parametrize("name", sections.NAMES)
def test_every_section_can_be_run_and_says_what_it_is(name: str) -> None:
    run = sections.section(name)
    assert callable(run)
    assert __import__(run.__module__, fromlist=["run"]).__doc__


def test_readme_shows_what_was_measured() -> None:
    readme = results.README.read_text(encoding="utf-8")
    assert readme == results.with_table(readme, results.load()), "run `make bench`, which writes it"


def test_what_was_measured_is_well_formed() -> None:
    for name, result in results.load().items():
        assert name in sections.NAMES
        assert {"date", "machine", "versions", "peers", "figures", "claims", "notes"} == set(result)
        for claim in result["claims"]:
            assert claim["ours"] in result["figures"]
            assert claim["rival"] is None or claim["rival"] in result["figures"]
        assert all(figure["raw"] and figure["median"] > 0 for figure in result["figures"].values())


def test_rivals_take_turns() -> None:
    calls: list[str] = []
    seconds = {"a": 1.0, "b": 2.0}
    found = in_turns({name: lambda name=name: calls.append(name) or seconds[name] for name in seconds}, rounds=2)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}, "the warm-up doesn't count"


@pytest.mark.parametrize(
    ("claim", "held"),
    [
        (Claim("times less", "ours", "other", at_least=3.9), True),
        (Claim("times less", "ours", "other", at_least=4.1), False),
        (Claim("as much", "ours", "other", at_most=0.26), True),
        (Claim("as much", "ours", "other", at_most=0.24), False),
        (Claim("in itself", "ours", at_most=2.1), True),
        (Claim("in itself", "ours", at_most=1.9), False),
    ],
)
def test_a_bound_is_held_or_missed_by_the_medians(claim: Claim, held: bool) -> None:
    outcome = Outcome({"ours": [1.0, 2.0, 90.0], "other": [8.0, 8.0, 0.1]}, (claim,)).to_dict()
    assert outcome["claims"][0]["held"] is held
    assert json.loads(json.dumps(outcome)) == outcome


def test_a_section_measured_again_leaves_the_others_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "results.json")
    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "peer_versions", lambda: {"pex": "2"})
    results.README.write_text(f"before\n{results.BEGIN}old\n{results.END}after\n")
    outcome = Outcome({"ours": [1.0], "other": [8.0]}, (Claim("c", "ours", "other", at_least=4),))
    result = results.described(outcome.to_dict())
    results.save("find", result, order=sections.NAMES)
    first = results.load()["find"]
    results.save("pack", result, order=sections.NAMES)
    assert list(results.load()) == ["pack", "find"]
    assert results.load()["find"] == first
    readme = results.README.read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "old" not in readme
    assert "| pack | c | 1.00 s | 8.00 s | 8.0x less | at least 4x |" in readme
