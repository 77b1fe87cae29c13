"""A broadcast numpy array of 500 MB: what four Python workers of one executor take of memory for it, and how long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from airflow_provider_sparkdeps.spark.embedded import EmbeddedServer
from benchmarks.measure import ROUNDS, Claim, Outcome, tell
from benchmarks.setting import ROOT, room

MEGABYTES = int(os.environ.get("BENCH_MEGABYTES", "500"))
_MASTER = "local-cluster[1,4,2048]"
_CONF = {"spark.driver.memory": "2g"}
# Run in a process of its own, whose peak the system tells. `spark` and `broadcast` come from what is put in front.
_WORK = """
import json, os, resource, sys, time
import numpy
from pyspark.sql.functions import udf

def on_workers(function, seconds):
    def asked(_):
        found = float(function())
        time.sleep(seconds)
        return [float(os.getpid()), found]
    frame = spark.range(0, 4, 1, 4)
    return dict(map(tuple, (row[0] for row in frame.select(udf(asked, "array<double>")("id")).collect())))

def shared_fairly(pids):
    lines = [line for pid in pids for line in open(f"/proc/{int(pid)}/smaps_rollup") if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) * 1024 / 1e6

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6

before = on_workers(lambda: numpy.zeros(1).sum(), 2)
assert len(before) == 4, before
array = numpy.random.default_rng(5).random(int(sys.argv[1]) * 1_000_000 // 8)
memory, own = shared_fairly(before), peak()
started = time.perf_counter()
variable = broadcast(array)
sent = time.perf_counter()
after = on_workers(lambda: variable.value.sum(), 0)
used = time.perf_counter()
# All four, also if the first to be ready have done two partitions.
after |= on_workers(lambda: variable.value.sum(), 2)
assert after == dict.fromkeys(before, array.sum()), (before, after)
found = {"grows": shared_fairly(after) - memory, "client": peak() - own, "sends": sent - started, "all": used - started}
again = time.perf_counter()
broadcast(array.copy())
found["again"] = time.perf_counter() - again
print(json.dumps(found))
"""
_OURS = """
import sys
from airflow_provider_sparkdeps.spark.endpoint import Endpoint
from airflow_provider_sparkdeps.spark.session import Session
session = Session(Endpoint(host=sys.argv[2], port=int(sys.argv[3])), report=lambda _: None)
session.__enter__()
spark, broadcast = session.spark, session.broadcast
"""
_CLASSIC = """
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
broadcast = spark.sparkContext.broadcast
"""


def run() -> Outcome:
    """Do it over Spark Connect with ours, and in a classic Spark application, each on a new cluster."""
    figures: dict[str, list[float]] = {}
    with room() as directory:
        for number in range(max(1, ROUNDS // 2)):
            with EmbeddedServer(_MASTER, conf=_CONF, work_dir=directory / f"server{number}") as server:
                ours = _measure(f"{_OURS}{_WORK}\nsession.close()", dict(os.environ), server.host, str(server.port))
            # Never started; it lays out a home for Spark, and finds Java.
            environ = EmbeddedServer(_MASTER, conf=_CONF, work_dir=directory / f"classic{number}")._prepare()
            classic = _measure(f"{_CLASSIC}{_WORK}\nspark.stop()", environ)
            for name, found in (("ours", ours), ("classic", classic)):
                tell(f"{name}: {', '.join(f'{what} {value:.2f}' for what, value in found.items())}")
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
                f"4 workers' memory for {size} (sum of PSS), against one copy", "ours, grows", "one copy", at_most=1.2
            ),
            Claim(f"4 workers' memory for {size} (sum of PSS), against classic Spark", "ours, grows", "classic, grows"),
            Claim(f"the task's own memory, beside the {size}", "ours, client", at_most=MEGABYTES),
            Claim(f"broadcast {size}, until 4 workers have used it", "ours, all", "classic, all"),
            Claim(f"broadcast the same {size} again", "ours, again", "classic, again"),
        ),
        units={name: "MB" for name in figures if name.endswith(("grows", "client", "copy"))},
        notes=(
            "random doubles; one executor with 4 cores; `other` is `SparkContext.broadcast` of classic Spark, which "
            "Spark Connect does not have, in a driver of its own.",
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
