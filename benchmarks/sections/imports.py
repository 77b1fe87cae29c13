"""Import time of `airflow_provider_sparkdeps.environments` in a DAG file, compared with an empty interpreter."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import ROUNDS, Claim, Outcome, in_turns, timed

# Airflow has loaded these modules of the standard library before it parses a DAG file.
_LOADED = "import dataclasses, hashlib, inspect, json, pathlib, re, sys, time, typing"
_IMPORT = "import airflow_provider_sparkdeps.environments"
_MEASURED = f"{_LOADED}\nstart = time.perf_counter()\n{_IMPORT}\nprint(time.perf_counter() - start)"


def run() -> Outcome:
    """Measure the import alone, and whole processes with and without it."""
    figures = in_turns(
        {
            "import": lambda: float(_python(_MEASURED)),
            "process with import": lambda: timed(lambda: _python(f"{_LOADED}\n{_IMPORT}")),
            "empty process": lambda: timed(lambda: _python(_LOADED)),
        },
        rounds=4 * ROUNDS,
    )
    return Outcome(
        figures,
        (
            Claim("import environments in a DAG file", "import", at_most=0.02),
            Claim(
                "start Python and import, compared with an empty interpreter", "process with import", "empty process"
            ),
        ),
        notes=("both interpreters load the modules of the standard library that Airflow has loaded before.",),
    )


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
