"""Existing PEX files, and runs of the interpreters of built ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys._base_executable)  # type: ignore[attr-defined]


def make_pex(file: Path, *arguments: str | Path) -> Path:
    """Build a PEX with the command line of pex."""
    command = [sys.executable, "-m", "pex", *arguments, "-o", file]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return file


def run(prefix: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code with the interpreter of a built PEX, on a PATH with this Python and with ldd, which a PEX needs."""
    environ = {"PATH": f"{BASE.parent}:/usr/bin:/bin", "HOME": "/nonexistent", **environ}
    return subprocess.run([prefix / "bin/python", "-c", code], env=environ, capture_output=True, text=True, check=False)
