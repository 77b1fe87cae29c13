"""`python -m benchmarks [section ...]`: run sections, print their table, keep the figures."""

from __future__ import annotations

import sys

from benchmarks import results
from benchmarks.measure import FEWEST, ROUNDS, tell
from benchmarks.sections import NAMES, section


def main(names: list[str]) -> int:
    """Run sections by name, all by default; return how many of their bounds were missed, at most 1."""
    if unknown := sorted({*names} - {*NAMES}):
        raise SystemExit(f"There is no section {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    chosen = [name for name in NAMES if not names or name in names]
    found = {}
    for name in chosen:
        tell(f"{name}:")
        found[name] = results.described(section(name)().to_dict())
        if ROUNDS >= FEWEST:
            results.save(name, found[name], order=NAMES)
    print(results.render(found))
    return int(not all(claim.get("held", True) for result in found.values() for claim in result["claims"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
