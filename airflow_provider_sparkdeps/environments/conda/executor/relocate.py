"""Runs on executors: writes the final path of an unpacked environment into those of its files that contain it.

A copy of this file is part of the archive. The interpreter in the archive runs it; it needs only the standard library.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path


def relocate(prefix: Path, destination: str, placeholders: list[list[str]]) -> None:
    """Replace placeholders in files.

    :param prefix: current path of the environment.
    :param destination: final path of the environment.
    :param placeholders: for each file its path below the prefix, its placeholder, and "text" or "binary".
    """
    for name, placeholder, mode in placeholders:
        path = prefix / name
        before = path.read_bytes()
        after = _replace(before, os.fsencode(placeholder), os.fsencode(destination), mode)
        if after == before:
            continue
        # Write a new file: the old one may be the running interpreter.
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(after)
        part.chmod(path.stat().st_mode)
        part.replace(path)


def _replace(data: bytes, old: bytes, new: bytes, mode: str) -> bytes:
    if mode == "text":
        return data.replace(old, new)

    def pad(match: re.Match[bytes]) -> bytes:
        string = match.group()
        replaced = string.replace(old, new)
        if len(replaced) > len(string):
            sys.exit(
                f"Could not relocate the environment: {os.fsdecode(new)} is longer than the {len(old)} characters that"
                " its files have room for. Use a shorter work directory for executors."
            )
        return replaced + bytes(len(string) - len(replaced))

    # A C string ends at its NUL; the bytes after it must keep their offsets.
    return re.sub(re.escape(old) + rb"[^\0]*\0", pad, data)


if __name__ == "__main__":
    here = Path(__file__).absolute()
    relocate(here.parent.parent, sys.argv[1], json.loads(here.with_suffix(".json").read_text()))
