"""Results of the benchmarks in results.json, and the table of them in docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from importlib import metadata
from typing import Any

from benchmarks.setting import ROOT, peer_versions

FILE = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- made by `make bench`: begin -->\n", "<!-- made by `make bench`: end -->\n"
_OURS = ("airflow-provider-sparkdeps", "apache-airflow", "isal", "pex", "pyspark", "uv")


def load() -> dict[str, Any]:
    """Return the results of all sections by name."""
    results: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return results


def with_metadata(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a section with the date, the machine and the versions that were used."""
    return {"date": date.today().isoformat(), **_metadata(), **outcome}


def save(section: str, result: Mapping[str, Any], *, order: tuple[str, ...]) -> None:
    """Save the result of one section, and update the table in docs/performance.md."""
    results = {**load(), section: dict(result)}
    kept = {name: results[name] for name in order if name in results}
    FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")


def _metadata() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    machine = {"cores": len(os.sched_getaffinity(0)), "memory_gb": round(memory), "platform": platform.machine()}
    ours = {name: metadata.version(name) for name in _OURS}
    return {"machine": machine | {"python": platform.python_version()}, "versions": ours, "peers": peer_versions()}


def with_table(page: str, results: Mapping[str, Any]) -> str:
    """Return the page with its table replaced by one of these results.

    :raises ValueError: if the page does not contain the two markers of the table.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE.name} has no {BEGIN.strip()} with a {END.strip()} after it. Restore these lines.")
    return f"{before}{begin}{render(results)}{end}{after}"


def render(results: Mapping[str, Any]) -> str:
    """Return the results as a Markdown table with notes."""
    if not results:
        return ""
    lines = ["| `make bench` | | ours | other | ratio | bound |", "|---|---|---|---|---|---|"]
    for section, result in results.items():
        for claim in result["claims"]:
            ours, rival = result["figures"][claim["ours"]], result["figures"].get(claim["rival"])
            cells = [
                section,
                claim["what"],
                _figure(ours),
                _figure(rival) if rival else "",
                *_ratio(claim, ours["unit"]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- {section}: {note}" for section, result in results.items() for note in result["notes"]]
    return "\n".join([*lines, "", *_measured_on(results), *([""] if notes else []), *notes, ""])


def _measured_on(results: Mapping[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for section, result in results.items():
        at, rounds = result["machine"], max(len(figure["raw"]) for figure in result["figures"].values())
        line = f"{result['date']}, {at['cores']} cores, {at['memory_gb']} GB, Python {at['python']}"
        found.setdefault(line, []).append(f"{section} ({rounds})")
    return [
        f"{line}; medians, with the number of rounds in brackets: {', '.join(names)}." for line, names in found.items()
    ]


def _figure(figure: Mapping[str, Any]) -> str:
    value, unit = figure["median"], figure["unit"]
    if unit == "s" and value < 0.1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if unit == "s" else f"{value:.0f} {unit}"


def _ratio(claim: Mapping[str, Any], unit: str) -> tuple[str, str]:
    mark = "" if claim.get("met", True) else " **missed**"
    if "times_less" in claim:
        bound = f"at least {claim['at_least']:g}x" if "at_least" in claim else ""
        return f"{claim['times_less']:.1f}x less", f"{bound}{mark}"
    if "times_as_much" in claim:
        bound = f"at most {claim['at_most']:g}x" if "at_most" in claim else ""
        return f"{claim['times_as_much']:.2f}x", f"{bound}{mark}"
    return "", f"at most {_figure({'median': claim['at_most'], 'unit': unit})}{mark}"
