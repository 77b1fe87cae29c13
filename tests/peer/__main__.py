"""Compares sessions of ours with stock ones in PySpark's own tests; run by `make peer`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from tests.peer.run import OURS, SERVER_CONF, Peer, build_environment, extract_tests
from tests.peer.suites import PREFIX, Suites, read_suites

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".bench" / "pyspark"


def compare(peer: Peer, suite: str, modes: Sequence[str], suites: Suites) -> int:
    """Run a suite in all modes, print its rows of the table, and return the number of unknown differences."""
    start = time.monotonic()
    stock = peer.run([suite], "stock")
    passed = sum(each.outcome == "passed" for each in stock.values())
    cells: list[str] = []
    lines = [] if stock else ["    No test of it has run."]
    unknown = len(lines)
    for mode in modes:
        differing = peer.differences(suite, mode, stock)
        cells.append(f"{passed - len(differing):>11}")
        known = suites.any_order | (suites.accumulator if mode == "accumulator" else {})
        for name, message in differing.items():
            reason = known.get(name.rpartition(".")[2])
            unknown += reason is None
            lines.append(f"    {mode}: {name.removeprefix(suite + '.')}: {reason or message[:300]}")
    row = f"{suite.removeprefix(PREFIX):<70} {passed:>6} {' '.join(cells)} {time.monotonic() - start:>6.0f} s"
    print("\n".join([row, *lines]), flush=True)
    return unknown


def run_with(version: str, arguments: list[str]) -> int:
    """Run this program with another PySpark, as client and as server, in a virtualenv that is kept."""
    python = HOME / version / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    install: list[str | Path] = [uv_binary(), "pip", "install", "--quiet", "--python", python]
    subprocess.run(
        [*install, "--editable", f"{ROOT}[embedded]", f"pyspark[connect]=={version}", "pandas<3"], check=True
    )
    return subprocess.run([python, "-m", "tests.peer", *arguments], cwd=ROOT, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peer", description=__doc__)
    parser.add_argument("--suites", nargs="*", help="names as in suites.txt; by default, all")
    parser.add_argument("--modes", default=",".join(OURS), help="modes to compare with stock sessions")
    parser.add_argument("--jobs", type=int, default=1, help="suites that run at once")
    parser.add_argument("--pyspark", metavar="VERSION", help="another release, installed into a virtualenv")
    args = parser.parse_args()
    if args.pyspark:
        names = ["--suites", *args.suites] if args.suites else []
        return run_with(args.pyspark, [*names, "--modes", args.modes, "--jobs", str(args.jobs)])
    suites, modes = read_suites(), args.modes.split(",")
    with tempfile.TemporaryDirectory(prefix="peer-") as directory:
        work = Path(directory)
        tests = extract_tests(work / "tests")
        chosen = [
            suite
            for suite in suites.run
            if suite in tests and (not args.suites or any(suite.endswith(f".{name}") for name in args.suites))
        ]
        if not chosen:
            parser.error("There is no such suite in suites.txt.")
        (work / "files").mkdir()
        build_environment(work / "store")
        print(f"{'suite':<70} {'stock':>6} {' '.join(f'{mode:>11}' for mode in modes)}")
        with EmbeddedServer(conf=SERVER_CONF) as server, ThreadPoolExecutor(args.jobs) as pool:
            peer = Peer(server.url, work / "tests", work / "store", work / "files", suites.left_out)
            unknown = sum(pool.map(lambda suite: compare(peer, suite, modes, suites), chosen))
    print(f"{unknown} tests pass in a stock session and fail in one of ours")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
