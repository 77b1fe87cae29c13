"""Broadcasting a numpy array of 500 MB: time, and memory of the four Python workers of one executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from benchmarks.measure import ROUNDS, Claim, Outcome, log
from benchmarks.setting import ROOT, work_directory

MEGABYTES = int(os.environ.get("BENCH_MEGABYTES", "500"))
_MASTER = "local-cluster[1,4,2048]"
_CONF = {"spark.driver.memory": "2g"}
# Runs in a separate process, to measure its peak memory. `_OURS` or `_CLASSIC` defines `spark` and `broadcast`.
_WORK = """
import json, os, resource, sys, time
import numpy
from pyspark.sql.functions import udf

def on_workers(function, seconds):
    def report(_):
        found = float(function())
        time.sleep(seconds)
        return [float(os.getpid()), found]
    frame = spark.range(0, 4, 1, 4)
    return dict(map(tuple, (row[0] for row in frame.select(udf(report, "array<double>")("id")).collect())))

def proportional_memory(pids):
    lines = [line for pid in pids for line in open(f"/proc/{int(pid)}/smaps_rollup") if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) * 1024 / 1e6

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

before = on_workers(lambda: numpy.zeros(1).sum(), 2)
assert len(before) == 4, before
array = numpy.random.default_rng(5).random(int(sys.argv[1]) * 1_000_000 // 8)
memory, own = proportional_memory(before), peak()
started = time.perf_counter()
variable = broadcast(array)
sent = time.perf_counter()
after = on_workers(lambda: variable.value.sum(), 0)
used = time.perf_counter()
# Wait for all four workers; the first ones that were ready may have run two partitions.
after |= on_workers(lambda: variable.value.sum(), 2)
assert after == dict.fromkeys(before, array.sum()), (before, after)
grows = proportional_memory(after) - memory
found = {"grows": grows, "client": peak() - own, "sends": sent - started, "all": used - started}
again = time.perf_counter()
broadcast(array.copy())
found["again"] = time.perf_counter() - again
print(json.dumps(found))
"""
_OURS = """
import functools, sys
from airflow_provider_sparkdeps.spark import broadcast
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
session = Session(Endpoint(host=sys.argv[2], port=int(sys.argv[3])), on_progress=lambda _: None)
session.__enter__()
spark, broadcast = session.spark, functools.partial(broadcast.broadcast, session)
"""
_CLASSIC = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
broadcast = spark.sparkContext.broadcast
"""


def run() -> Outcome:
    """Broadcast over Spark Connect and in a classic Spark application, each on a new cluster."""
    figures: dict[str, list[float]] = {}
    with work_directory() as directory:
        for number in range(max(1, ROUNDS // 2)):
            with EmbeddedServer(_MASTER, conf=_CONF, work_dir=directory / f"server{number}") as server:
                ours = _measure(f"{_OURS}{_WORK}\nsession.close()", dict(os.environ), server.host, str(server.port))
            # Never started: it only prepares a home for Spark and finds Java.
            environ = EmbeddedServer(_MASTER, conf=_CONF, work_dir=directory / f"classic{number}")._prepare()
            classic = _measure(f"{_CLASSIC}{_WORK}\nspark.stop()", environ)
            for name, found in (("ours", ours), ("classic", classic)):
                log(f"{name}: {', '.join(f'{what} {value:.2f}' for what, value in found.items())}")
                for what, value in found.items():
                    if (name, what) == ("classic", "client"):
                        continue  # it is 0 MB
                    figures.setdefault(f"{name}, {what}", []).append(value)
    size = f"{MEGABYTES} MB"
    figures["one copy"] = [float(MEGABYTES)]
    return Outcome(
        figures,
        (
            Claim(
                f"memory of 4 workers for {size} (sum of PSS), compared with one copy",
                "ours, grows",
                "one copy",
                at_most=1.2,
            ),
            Claim(
                f"memory of 4 workers for {size} (sum of PSS), compared with classic Spark",
                "ours, grows",
                "classic, grows",
            ),
            Claim(f"memory of the task, in addition to the {size}", "ours, client", at_most=MEGABYTES),
            Claim(f"broadcast {size} until 4 workers have used it", "ours, all", "classic, all"),
            Claim(f"broadcast the same {size} again", "ours, again", "classic, again"),
        ),
        units={name: "MB" for name in figures if name.endswith(("grows", "client", "copy"))},
        notes=(
            "random doubles; one executor with 4 cores; `other` is `SparkContext.broadcast` of classic Spark in a "
            "separate driver; Spark Connect does not have it.",
        ),
    )


def _measure(code: str, environ: dict[str, str], *arguments: str) -> dict[str, float]:
    environ["PYTHONPATH"] = str(ROOT)
    command: list[str | Path] = [sys.executable, "-c", code, str(MEGABYTES), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
