"""Runs PySpark's own tests in a subprocess, against a server that runs already."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyspark
from packaging.requirements import Requirement

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment

RUNNER = Path(__file__).with_name("runner.py")
OURS = ("plain", "attached", "accumulator")
"""Modes of our sessions: without an environment, with one, and with an accumulator that plain UDFs add to."""
# PySpark's tests start their server with these, so that clients have to reattach often, and tasks are not tried again.
SERVER_CONF = {
    "spark.connect.execute.reattachable.senderMaxStreamDuration": "1s",
    "spark.connect.execute.reattachable.senderMaxStreamSize": "123",
    "spark.task.maxFailures": "1",
}
TIMEOUT = 1200.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of one test: `passed`, `failed` or `skipped`.

    :param message: the error of a failed test, in one line.
    """

    outcome: str
    message: str


Outcomes = dict[str, Outcome]
"""Outcomes by the name of the test: module, class and method."""


def extract_tests(directory: Path) -> set[str]:
    """Extract PySpark with its tests from the installed wheel, which has them for executors; return the modules."""
    with zipfile.ZipFile(Path(pyspark.__file__).parent / "python/lib/pyspark.zip") as archive:
        archive.extractall(directory)
        return {name.removesuffix(".py").replace("/", ".") for name in archive.namelist()}


def build_environment(store: Path) -> None:
    """Build the environment of attached sessions: the packages that PySpark itself needs."""
    needed = map(Requirement, importlib.metadata.requires("pyspark") or ())
    names = [each.name for each in needed if each.marker and each.marker.evaluate({"extra": "connect"})]
    packages = [f"{name}=={importlib.metadata.version(name)}" for name in names]
    ArchiveStore(store).build(VenvEnvironment(packages), timeout=900, progress=print)


@dataclass(frozen=True)
class Peer:
    """PySpark's tests, and the server that they run against.

    :param tests: the directory with PySpark and its tests.
    :param work: a directory for files of the tests.
    :param left_out: suites and single tests that are not run.
    """

    url: str
    tests: Path
    store: Path
    work: Path
    left_out: Collection[str] = ()

    def run(self, names: Sequence[str], mode: str, *, timeout: float = TIMEOUT) -> Outcomes:
        """Run suites or single tests in one process, in sessions of a mode.

        :param mode: `stock`, or one of `OURS`.
        :param timeout: seconds, after which the process is killed. Tests that have not ended are missing in the result.
        """
        results = self.work / f"{mode}-{names[0]}.jsonl"
        results.unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, RUNNER, "--mode", mode, "--url", self.url, "--store", self.store]
        skip = [f"--skip={test}" for test in self.left_out for name in names if test.startswith(f"{name}.")]
        environ = {**os.environ, "PYTHONPATH": str(self.tests), "SPARK_HOME": str(Path(pyspark.__file__).parent)}
        with results.with_suffix(".log").open("wb") as log, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                [*command, "--results", results, *skip, *names],
                cwd=self.work,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=timeout,
                check=False,
            )
        return dict(_read(results))

    def differences(self, suite: str, mode: str, stock: Outcomes) -> dict[str, str]:
        """Return the errors of the tests that pass in a stock session and fail three times in one of ours."""
        differing = [name for name, each in stock.items() if each.outcome == "passed"]
        outcomes = self.run([suite], mode)
        for tries_left in (2, 1, 0):
            differing = [name for name in differing if name not in outcomes or outcomes[name].outcome != "passed"]
            if tries_left and differing:
                outcomes |= self.run(differing, mode)
        missing = Outcome("missing", "It did not end in time, or its class could not be set up.")
        return {name: outcomes.get(name, missing).message for name in differing}


def _read(results: Path) -> Iterator[tuple[str, Outcome]]:
    if results.exists():
        for line in results.read_text().splitlines():
            entry = json.loads(line)
            yield entry["test"], Outcome(entry["outcome"], entry["message"])
