"""Scripts that find the interpreter next to them, wherever they are."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

# A shell finds `python` next to the script; Python sees the same two lines as one string.
_HEAD = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""
# As pip and uv write them: the interpreter's path, or, where that is too long for a kernel, a shell that calls it.
_PYTHON = re.compile(rb"#![ \t]*\S*/python[0-9.]*[ \t]*(-[a-zA-Z]+)?\r?\n")
_SHELL = re.compile(rb"#!/bin/sh\n'''exec' .*python.*\n' '''\n")


def relocate_script(source: Path, target: Path) -> None:
    """Copy a script; if it calls a Python by its path, the copy calls the one next to it."""
    content = source.read_bytes()
    match = _PYTHON.match(content) or _SHELL.match(content)
    if match and b"/env " not in match[0]:
        target.write_bytes(_HEAD + content[match.end() :])
        target.chmod(0o755)
    else:
        shutil.copy2(source, target)
