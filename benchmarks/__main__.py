"""Command `python -m benchmarks [section ...]`: runs sections, prints the table, saves the results."""

from __future__ import annotations

import sys

from benchmarks import results
from benchmarks.measure import MIN_ROUNDS, ROUNDS, log
from benchmarks.sections import NAMES, section


def main(names: list[str]) -> int:
    """Run the named sections, all by default; return 1 if a bound was missed, else 0."""
    if unknown := sorted({*names} - {*NAMES}):
        raise SystemExit(f"Unknown section: {', '.join(unknown)}. Choose from {', '.join(NAMES)}.")
    chosen = [name for name in NAMES if not names or name in names]
    found = {}
    for name in chosen:
        log(f"{name}:")
        found[name] = results.with_metadata(section(name)().to_dict())
        if ROUNDS >= MIN_ROUNDS:
            results.save(name, found[name], order=NAMES)
    print(results.render(found))
    return int(not all(claim.get("met", True) for result in found.values() for claim in result["claims"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
