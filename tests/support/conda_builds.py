"""Builds conda environments, and moves them to another directory as archives are moved."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_provider_sparkdeps.environments import CondaEnvironment, Login
from airflow_provider_sparkdeps.environments.context import BuiltPrefix

from .build_contexts import build


class Builder:
    """Builds environments below a directory.

    :param channel: channel of environments that name no other.
    :param directory: where builds and moved environments go.
    """

    def __init__(self, channel: str, directory: Path) -> None:
        self._channel = channel
        self._directory = directory
        self._numbers = itertools.count()

    def __call__(
        self,
        *dependencies: str,
        environment: CondaEnvironment | None = None,
        lines: list[str] | None = None,
        logins: Mapping[str, Login] | None = None,
        timeout: float = 60,
        **arguments: Any,
    ) -> tuple[Path, BuiltPrefix]:
        """Build an environment, by default of the dependencies; return the path that it was moved to."""
        if environment is None:
            environment = CondaEnvironment(dependencies, **{"channels": [self._channel], **arguments})
        number = next(self._numbers)
        prefix = self._directory / f"build-{number}" / "prefix"
        prefix.parent.mkdir()
        built = build(environment, prefix, lines=lines, logins=logins, timeout=timeout)
        return prefix.rename(self._directory / f"moved-{number}"), built


def relocate(prefix: Path, built: BuiltPrefix, destination: str) -> None:
    """Run the script that the launcher runs before it moves an environment to its final path."""
    assert built.post_unpack_script
    command: list[str | Path] = [prefix / "bin/python", "-I", "-B", prefix / built.post_unpack_script, destination]
    subprocess.run(command, check=True, capture_output=True, text=True)
