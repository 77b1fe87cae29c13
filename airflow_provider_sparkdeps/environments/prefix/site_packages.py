"""Reads and edits the metadata of installed distributions."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

INSTALL_METADATA = ("direct_url.json", "uv_cache.json")
"""Files in which installers record where a distribution came from: URLs, local paths and times."""


def installed(prefix: Path) -> dict[str, str]:
    """Return the version of each distribution in a prefix, by canonical name, sorted."""
    sites = sorted(prefix.glob("lib/python3.*/site-packages"))
    return dict(sorted((name, version) for site in sites for name, version, _ in distributions(site)))


def distributions(site: Path) -> list[tuple[str, str, Path]]:
    """Return the canonical name, the version and the metadata directory of each distribution, sorted.

    Without what interrupted installations leave: directories without metadata, and those that pip renamed to `~ame`.

    :param site: a site-packages directory.
    """
    from packaging.utils import canonicalize_name

    found = []
    for info in [*site.glob("*.dist-info"), *site.glob("*.egg-info")]:
        # Old tools write the metadata to a file instead of a directory.
        if not info.name.startswith("~") and any(map(Path.is_file, (info / "METADATA", info / "PKG-INFO", info))):
            facts = metadata.Distribution.at(info).metadata
            if "Name" in facts and "Version" in facts:
                found.append((canonicalize_name(facts["Name"]), facts["Version"], info))
    return sorted(found)


def remove_install_metadata(prefix: Path, names: Iterable[str]) -> None:
    """Remove the records of where local distributions came from, so that equal builds have equal bytes.

    :param names: canonical names of the distributions.
    """
    from packaging.utils import canonicalize_name

    wanted = set(names)
    for info in prefix.glob("lib/python3.*/site-packages/*.dist-info"):
        if canonicalize_name(info.name.split("-")[0]) in wanted:
            for name in INSTALL_METADATA:
                (info / name).unlink(missing_ok=True)
            remove_from_record(info, lambda path: path.rpartition("/")[2] in INSTALL_METADATA)


def remove_from_record(info: Path, is_removed: Callable[[str], bool]) -> None:
    """Remove lines from the RECORD of a distribution.

    :param info: its `.dist-info` directory.
    :param is_removed: called with each path in the RECORD.
    """
    record = info / "RECORD"
    rows = read_record(info)
    kept = [row for row in rows if not is_removed(row[0])]
    if kept != rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(kept)
        # It may be a hard link to the cache of an installer, so it is replaced and not edited.
        record.unlink()
        record.write_text(text.getvalue(), encoding="utf-8")


def read_record(info: Path) -> list[list[str]]:
    """Return the rows of a distribution's RECORD (path, hash, size); an empty list if it has none."""
    try:
        text = (info / "RECORD").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [row for row in csv.reader(io.StringIO(text)) if row]
