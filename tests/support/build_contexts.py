"""Builds environments, and runs their interpreters."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from airflow_provider_sparkdeps.environments import Environment, Login
from airflow_provider_sparkdeps.environments.context import BuildContext, BuiltPrefix
from airflow_provider_sparkdeps.utils.deadline import Deadline


def make_context(
    *, timeout: float = 60, lines: list[str] | None = None, logins: Mapping[str, Login] | None = None
) -> BuildContext:
    """Return a context whose reports are added to `lines`."""

    def report(phase: str, line: str) -> None:
        if lines is not None:
            lines.append(f"{phase}: {line}")

    return BuildContext(Deadline(timeout, "Building for a test"), report, logins or {})


def build(
    environment: Environment,
    prefix: Path,
    *,
    timeout: float = 60,
    lines: list[str] | None = None,
    logins: Mapping[str, Login] | None = None,
) -> BuiltPrefix:
    """Build an environment."""
    return environment.build(prefix, make_context(timeout=timeout, lines=lines, logins=logins))


def run_python(prefix: Path, code: str) -> str:
    """Return the output of code that the interpreter of a prefix runs."""
    command: list[str | Path] = [prefix / "bin" / "python", "-I", "-B", "-c", code]
    done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
