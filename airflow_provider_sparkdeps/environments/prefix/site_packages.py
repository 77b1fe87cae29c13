"""What is installed in a prefix."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

ORIGINS = ("direct_url.json", "uv_cache.json")
"""An installer's notes on where a distribution came from: addresses, paths of this machine, and times."""


def installed(prefix: Path) -> dict[str, str]:
    """Return the version of each distribution in a prefix, by canonical name, sorted."""
    from packaging.utils import canonicalize_name

    roots = [str(path) for path in sorted(prefix.glob("lib/python3.*/site-packages"))]
    found = {canonicalize_name(each.name): each.version for each in metadata.distributions(path=roots)}
    return dict(sorted(found.items()))


def remove_install_metadata(prefix: Path, names: Iterable[str]) -> None:
    """Take out the notes on where local distributions came from, so that equal ones are equal byte by byte.

    :param names: canonical names of the distributions.
    """
    from packaging.utils import canonicalize_name

    wanted = set(names)
    for info in prefix.glob("lib/python3.*/site-packages/*.dist-info"):
        if canonicalize_name(info.name.split("-")[0]) in wanted:
            for name in ORIGINS:
                (info / name).unlink(missing_ok=True)
            remove_from_record(info, lambda path: path.rpartition("/")[2] in ORIGINS)


def remove_from_record(info: Path, leave_out: Callable[[str], bool]) -> None:
    """Take lines out of a distribution's RECORD.

    :param info: its `.dist-info` directory.
    :param leave_out: told each path in it.
    """
    record = info / "RECORD"
    rows = read_record(info)
    kept = [row for row in rows if not leave_out(row[0])]
    if kept != rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(kept)
        # It may be a hard link to an installer's cache: made anew, never edited.
        record.unlink()
        record.write_text(text.getvalue(), encoding="utf-8")


def read_record(info: Path) -> list[list[str]]:
    """Return the rows of a distribution's RECORD: path, hash, size; none where it has no RECORD."""
    try:
        text = (info / "RECORD").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [row for row in csv.reader(io.StringIO(text)) if row]
