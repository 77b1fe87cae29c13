"""The running Python and the machine that it runs on."""

from __future__ import annotations

import sys


def current_python() -> str:
    """Return the running interpreter's minor version, such as "3.12"."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def current_platform() -> str:
    """Return the platform of this machine, such as "linux-x86_64"."""
    import platform

    return f"{sys.platform}-{platform.machine()}"
