"""Writes the place that an environment will be at into those of its files that name it.

It travels in archives and is run by their own interpreter, with nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path


def relocate(prefix: Path, destination: str, records: list[list[str]]) -> None:
    """Replace placeholders in files.

    :param prefix: where the environment is now.
    :param destination: where it will be.
    :param records: path below the prefix, placeholder and "text" or "binary", for each file.
    """
    for name, placeholder, mode in records:
        path = prefix / name
        before = path.read_bytes()
        after = _replace(before, os.fsencode(placeholder), os.fsencode(destination), mode)
        if after == before:
            continue
        # A new file: the old one may be the interpreter that is running.
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(after)
        part.chmod(path.stat().st_mode)
        part.replace(path)


def _replace(data: bytes, old: bytes, new: bytes, mode: str) -> bytes:
    if mode == "text":
        return data.replace(old, new)

    def pad(found: re.Match[bytes]) -> bytes:
        text = found.group()
        replaced = text.replace(old, new)
        if len(replaced) > len(text):
            sys.exit(f"{os.fsdecode(new)} is longer than the {len(old)} characters that there is room for")
        return replaced + bytes(len(text) - len(replaced))

    # C strings, which end with their NUL: what follows must stay where it is.
    return re.sub(re.escape(old) + rb"[^\0]*\0", pad, data)


if __name__ == "__main__":
    here = Path(__file__).absolute()
    relocate(here.parent.parent, sys.argv[1], json.loads(here.with_suffix(".json").read_text()))
