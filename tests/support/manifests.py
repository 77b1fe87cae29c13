"""A manifest for tests that need no payload."""

from __future__ import annotations

from dataclasses import replace

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.archives.manifest import Contents

ARCHIVE = Archive(
    key="a" * 64,
    kind="venv",
    payload="env-bbbbbbbbbbbb.payload",
    size=12,
    sha256="b" * 64,
    interpreter="bin/python",
    python="3.12.1",
    platform="linux-x86_64",
    packages={"six": "1.17.0"},
    lock=("six==1.17.0",),
    environment={"kind": "venv", "requirements": ["six"]},
    contents=Contents(files=2, unpacked_size=34, package_sizes={"six": 34}, modules=("six",)),
    created_at="2026-11-20T00:00:00+00:00",
    created_by="host:1",
)


def archive_with(*modules: str, interpreter: str | None = "bin/python", contents: Contents | None = None) -> Archive:
    """Return the manifest of an environment with these modules."""
    return replace(ARCHIVE, interpreter=interpreter, contents=contents or Contents(modules=modules))
