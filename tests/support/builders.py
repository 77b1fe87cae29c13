"""Environments that are built within a second or two, and builders in separate processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from airflow_provider_sparkdeps.environments import VenvEnvironment

SIX = VenvEnvironment(["six<1.17"], bundle_python=False)
BUNDLED = VenvEnvironment(["six", "markupsafe"])

_BUILDER = """
import signal, sys
from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import VenvEnvironment

# A process that is started in the background of a shell ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

def on_line(line):
    pass

{setup}

def progress(line):
    print(line, flush=True)
    on_line(line)

root, requirements, bundle = sys.argv[1:]
environment = VenvEnvironment(requirements.split(","), bundle_python=bundle == "bundle")
archive = ArchiveStore(root).build(environment, timeout=300, progress=progress)
print("archive:", archive.sha256, archive.created_by, archive.published)
"""


def start_builder(
    root: Path, *, tmp: Path, environment: VenvEnvironment = SIX, setup: str = ""
) -> subprocess.Popen[str]:
    """Start a process that builds an environment, prints each line of progress, and then its archive.

    :param tmp: the temporary directory of the process.
    :param setup: code that runs before the build. It may define `on_line(line)`, called with each line of progress.
    """
    tmp.mkdir(parents=True, exist_ok=True)
    bundle = "bundle" if environment.bundle_python else ""
    code = _BUILDER.replace("{setup}", setup)
    command = [sys.executable, "-c", code, str(root), ",".join(environment.requirements), bundle]
    return subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(tmp)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def signal_in(phase: str, name: str) -> str:
    """Return a setup in which the builder sends itself a signal shortly after a phase has begun, or at its end."""
    return f"""
import os, threading
timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.{name}))
def on_line(line):
    # After "publish" there is no other line.
    if timer.ident and not line.startswith("{phase}:") or line.startswith("publish:"):
        os.kill(os.getpid(), signal.{name})
    elif not timer.ident and line.startswith("{phase}:"):
        timer.start()
"""


def processes_below(directory: Path) -> list[str]:
    """Return the ids of the processes whose working directory is in a directory."""
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if cwd.readlink().is_relative_to(directory):
                found.append(cwd.parent.name)
    return found
