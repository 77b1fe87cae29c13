"""What is installed in a prefix."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def installed(prefix: Path) -> dict[str, str]:
    """Return the version of each distribution in a prefix, by canonical name, sorted."""
    from packaging.utils import canonicalize_name

    roots = [str(path) for path in sorted(prefix.glob("lib/python3.*/site-packages"))]
    found = {canonicalize_name(each.name): each.version for each in metadata.distributions(path=roots)}
    return dict(sorted(found.items()))
