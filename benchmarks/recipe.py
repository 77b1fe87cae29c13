"""The recipe that this package is compared with: venv-pack, `addArtifact(archive=True)` and a session setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.setting import seconds_of

NAME = "pyspark_venv.tar.gz"


def pack(venv: Path, directory: Path) -> float:
    """Pack a virtualenv as if it were the active one; return the seconds spent in venv-pack."""
    (directory / NAME).unlink(missing_ok=True)
    return seconds_of(
        "import venv_pack; venv_pack.pack(output='pyspark_venv.tar.gz')", cwd=directory, VIRTUAL_ENV=str(venv)
    )


def attach(spark: Any, directory: Path) -> None:
    """Attach the packed virtualenv to a session; each session needs this."""
    spark.addArtifact(f"{directory / NAME}#environment", archive=True)
    spark.conf.set("spark.sql.execution.pyspark.python", "environment/bin/python")
