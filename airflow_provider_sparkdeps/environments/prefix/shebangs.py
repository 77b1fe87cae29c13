"""Rewrites scripts to call the interpreter in their own directory."""

from __future__ import annotations

import ast
import io
import re
import shutil
import tokenize
import warnings
from itertools import takewhile
from pathlib import Path

from airflow_provider_sparkdeps.environments.prefix.site_packages import remove_from_record

# The shell runs `python` from the directory of the script. Python reads the same two lines as a string.
_HEAD = """#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/'python'{options} "$0" "$@"
' '''
"""
_OPTIONS = rb"(?P<options>(?:[ \t]+-?[\w.:=-]+)*)[ \t]*"
# A path, or what `env` finds on PATH, but not a Python 2.
_PYTHON = re.compile(rb"#![ \t]*(?:\S*/|\S*/env[ \t]+(?:-S[ \t]*)?)python(?:3[0-9.]*)?" + _OPTIONS + rb"\r?\n")
# As pip and uv write it if the path is too long for a shebang, or relative.
_SHELL = re.compile(rb"#!/bin/sh\n'''exec' .*python[0-9.]*[\"']?" + _OPTIONS + rb"\"\$0\" \"\$@\"\n' '''\n")


def relocate_script(source: Path, target: Path) -> bool:
    """Copy a script. If it calls a Python, the copy calls the one in its own directory.

    :param target: may be the source.
    :return: whether the script was rewritten.
    """
    content = relocated(source)
    if content is None:
        if source != target:
            shutil.copy2(source, target)
        return False
    # It may be a hard link to the cache of an installer, so it is replaced and not edited.
    target.unlink(missing_ok=True)
    target.write_bytes(content)
    target.chmod(0o755)
    return True


def relocate_scripts(prefix: Path) -> None:
    """Rewrite the scripts of a prefix that call a Python; they are removed from the RECORD of their package."""
    scripts = [path for path in sorted(prefix.glob("bin/*")) if path.is_file() and not path.is_symlink()]
    rewritten = {f"../../../bin/{path.name}" for path in scripts if relocate_script(path, path)}
    for info in prefix.glob("lib/python3.*/site-packages/*.dist-info"):
        remove_from_record(info, rewritten.__contains__)


def relocated(script: Path) -> bytes | None:
    """Return a script that calls Python as it has to be to call the one in its own directory; None if it can stay."""
    with script.open("rb") as file:
        if file.read(2) != b"#!":
            return None
    content = script.read_bytes()
    match = _PYTHON.match(content) or _SHELL.match(content)
    if match is None:
        return None
    options = b"".join(b" " + each for each in match["options"].split()).decode()
    rewritten = _HEAD.format(options=options).encode() + _below_head(content[match.end() :])
    return rewritten if rewritten != content else None


def _below_head(source: bytes) -> bytes:
    """Return source code that means the same when a string and more lines precede it.

    The string would be its docstring, `from __future__` may follow only one, and the encoding is read in line 2.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(b"#\n" + source).readline)
        text = source.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = ast.parse(text)
    except (SyntaxError, ValueError):
        return source
    lines, doc = text.split("\n"), ast.get_docstring(module, clean=False)
    if encoding != "utf-8":
        lines[0] = "#"
    if doc is not None:
        first, *rest = module.body
        futures = takewhile(lambda each: isinstance(each, ast.ImportFrom) and each.module == "__future__", rest)
        begin, end, after = first.lineno - 1, first.end_lineno, [first, *futures][-1].end_lineno
        if not rest or rest[0].lineno != end:
            lines = [*lines[:begin], *lines[end:after], f"__doc__ = {doc!r}", *lines[after:]]
    return "\n".join(lines).encode()
