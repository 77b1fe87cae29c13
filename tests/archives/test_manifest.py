"""The manifest: conversion to and from JSON, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_sparkdeps.archives import Archive
from airflow_provider_sparkdeps.exceptions import ArchiveError

from ..support.manifests import ARCHIVE


def test_an_archive_is_the_same_after_json() -> None:
    again = Archive.from_dict(json.loads(json.dumps(ARCHIVE.to_dict())))
    assert again == ARCHIVE
    assert hash(again) == hash(ARCHIVE)
    assert (again.short_digest, again.python_minor) == ("b" * 12, "3.12")


def test_an_archive_without_an_interpreter_is_the_same_after_json() -> None:
    data = {**ARCHIVE.to_dict(), "interpreter": None}
    assert Archive.from_dict(data).to_dict() == data


def test_whether_it_was_published_is_not_part_of_the_manifest() -> None:
    assert replace(ARCHIVE, published=True) == ARCHIVE
    assert replace(ARCHIVE, published=True).to_dict() == ARCHIVE.to_dict()
    assert "published" not in ARCHIVE.to_dict()


@pytest.mark.parametrize("contents", [{}, {"files": 2, "glibc": "2.28"}, {"modules": ["six"], "future": 1}])
def test_a_manifest_of_another_version_has_the_contents_that_are_known(contents: dict[str, Any]) -> None:
    read = Archive.from_dict({**ARCHIVE.to_dict(), "contents": contents}).contents
    assert (read.files, read.unpacked_size) == (contents.get("files", 0), 0)
    assert (read.glibc, read.modules) == (contents.get("glibc"), ("six",) if "modules" in contents else None)


@pytest.mark.parametrize(
    ("change", "problem"),
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
        ({"contents": {"modules": 5}}, "invalid contents"),
        ({"contents": {"unpacked_size": "34"}}, "invalid contents"),
        ({"key": "a" * 63, "kind": ""}, "invalid key, kind"),
        ({"extra": 1}, r"unknown \['extra'\]"),
    ],
)
def test_invalid_fields_are_refused_by_name(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ArchiveError, match=problem):
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
