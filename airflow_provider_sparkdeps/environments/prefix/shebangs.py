"""Rewrites scripts to call the interpreter in their own directory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

# The shell runs `python` from the directory of the script. Python reads the same two lines as a string.
_HEAD = b"""#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python' "$0" "$@"
' '''
"""
# As pip and uv write them: the path of the interpreter, or a shell command if that path is too long for a shebang.
_PYTHON = re.compile(rb"#![ \t]*\S*/python[0-9.]*[ \t]*(-[a-zA-Z]+)?\r?\n")
_SHELL = re.compile(rb"#!/bin/sh\n'''exec' .*python.*\n' '''\n")


def relocate_script(source: Path, target: Path) -> None:
    """Copy a script. If it calls a Python by its path, the copy calls the one in its own directory."""
    content = source.read_bytes()
    match = _PYTHON.match(content) or _SHELL.match(content)
    if match and b"/env " not in match[0]:
        target.write_bytes(_HEAD + content[match.end() :])
        target.chmod(0o755)
    else:
        shutil.copy2(source, target)
