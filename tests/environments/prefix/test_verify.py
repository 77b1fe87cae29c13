"""Messages about environments that do not work: what is wrong, why, and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments.context import BuiltPrefix
from airflow_provider_sparkdeps.environments.prefix.verify import query_interpreter, verify_prefix
from airflow_provider_sparkdeps.exceptions import BuildError
from airflow_provider_sparkdeps.utils.deadline import Deadline

from ...support.projects import write

PATH = "bin/python"


def verify(prefix: Path, code: str, *, packages: dict[str, str] | None = None, host_path: str | None = None) -> str:
    """Return the error about an interpreter that is a shell script."""
    script = write(prefix / PATH, f"#!/bin/sh\n{code}\n")
    script.chmod(0o755)
    built = BuiltPrefix("3.12.1", PATH, packages or {}, (), host_path=host_path)
    with pytest.raises(BuildError) as caught:
        verify_prefix(prefix, built, deadline=Deadline(60, "Building for a test"))
    return str(caught.value)


def answer(moved: Path, **facts: object) -> str:
    """Return the code of an interpreter with these facts."""
    given = {"python": "3.12.1", "prefix": str(moved), "path": [str(moved.parent)] if "pex" in facts else [],
             "broken": {}, "packages": {}, "mapped": []}  # fmt: skip
    return f"/bin/echo '{json.dumps(given | facts)}'"


def test_an_interpreter_that_does_not_run_says_what_it_printed(tmp_path: Path) -> None:
    message = verify(tmp_path, "echo 'no module named encodings' >&2; exit 1")
    assert "does not run. Its output:\n\nno module named encodings\n\nIf the output names a package" in message
    assert "(none, exit code 3)" in verify(tmp_path, "exit 3")


def test_an_interpreter_that_starts_another_one_is_explained(tmp_path: Path) -> None:
    message = verify(tmp_path, answer(tmp_path, python="3.12.9", prefix="/usr"))
    assert f"after a move to {tmp_path}, it starts Python 3.12.9 of /usr instead of its own Python 3.12.1." in message
    assert "Build with another Python" in message


def test_a_pex_that_selects_another_python_is_explained(tmp_path: Path) -> None:
    message = verify(tmp_path, answer(tmp_path, python="3.12.9", pex=True), host_path="/usr/bin:/bin")
    assert (
        "runs Python 3.12.9 instead of Python 3.12.1: it selects another interpreter of this machine. Uninstall"
        in message
    )


def test_files_of_this_machine_are_named(tmp_path: Path) -> None:
    message = verify(tmp_path, answer(tmp_path, mapped=["/opt/libx.so", "/usr/lib/libc.so.6"]))
    assert "uses files of this machine, which executors do not have: /opt/libx.so. Build with" in message


def test_broken_modules_are_named_with_the_reason(tmp_path: Path) -> None:
    message = verify(tmp_path, answer(tmp_path, broken={"ssl": "libssl.so.3: cannot open"}))
    assert "cannot be imported in the built environment: ssl: libssl.so.3: cannot open. Install the system" in message


def test_a_package_that_is_missing_is_told_from_one_of_another_version(tmp_path: Path) -> None:
    packages = {"six": "1.17", "tabulate": "0.9"}
    message = verify(tmp_path, answer(tmp_path, packages={"six": "1.17", "tabulate": None}), packages=packages)
    assert "missing from the built environment: tabulate. Their metadata was removed" in message
    message = verify(tmp_path, answer(tmp_path, packages={"six": "1.16", "tabulate": "0.9"}), packages=packages)
    assert (
        "six. It has six 1.16 instead of 1.17, because the metadata of both is installed. If it is a copy, install"
        in message
    )


def test_distributions_without_metadata_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "left-1.0.dist-info" / "RECORD", "")
    write(tmp_path / "kept-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: kept\nVersion: 1.0\n")
    script = write(tmp_path / PATH, f'#!/bin/sh\nshift 2\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    found = query_interpreter(tmp_path, PATH, names=None, deadline=Deadline(60, "Building for a test"))
    assert found["packages"]["kept"] == "1.0"
    assert "left" not in found["packages"]
