"""The manifest: plain data both ways, and strict about what it takes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.exceptions import ArchiveError

from ..support.manifests import ARCHIVE


def test_an_archive_survives_json() -> None:
    again = Archive.from_dict(json.loads(json.dumps(ARCHIVE.to_dict())))
    assert again == ARCHIVE
    assert hash(again) == hash(ARCHIVE)
    assert (again.short_digest, again.python_minor) == ("b" * 12, "3.12")


def test_an_archive_without_an_interpreter_survives_too() -> None:
    data = {**ARCHIVE.to_dict(), "interpreter": None}
    assert Archive.from_dict(data).to_dict() == data


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"sha256": None}, "invalid sha256"),
        ({"sha256": "B" * 64}, "invalid sha256"),
        ({"size": "12"}, "invalid size"),
        ({"size": True}, "invalid size"),
        ({"size": 0}, "invalid size"),
        ({"payload": "../../etc/passwd"}, "invalid payload"),
        ({"payload": ".."}, "invalid payload"),
        ({"interpreter": "/usr/bin/python3"}, "invalid interpreter"),
        ({"interpreter": "../python"}, "invalid interpreter"),
        ({"python": "3.12"}, "invalid python"),
        ({"packages": ["six"]}, "invalid packages"),
        ({"lock": "six==1.17.0"}, "invalid lock"),
        ({"key": "a" * 63, "kind": ""}, "invalid key, kind"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
)
def test_data_that_describes_no_archive_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ArchiveError, match=says):
        Archive.from_dict({**ARCHIVE.to_dict(), **change})


@pytest.mark.parametrize("data", [None, [], "archive", {}])
def test_other_data_is_refused(data: object) -> None:
    with pytest.raises(ArchiveError, match="describe"):
        Archive.from_dict(data)


def test_a_missing_field_is_named() -> None:
    data = ARCHIVE.to_dict()
    del data["sha256"]
    with pytest.raises(ArchiveError, match=r"missing \['sha256'\]"):
        Archive.from_dict(data)
