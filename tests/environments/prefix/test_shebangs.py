"""Scripts that are rewritten to call the Python in their directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments.prefix.shebangs import relocate_script, relocate_scripts

from ...support.projects import write

HEAD = b"#!/bin/sh\n'''exec' \"$(dirname"


def rewrite(path: Path, content: bytes) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return relocate_script(path, path)


def run(script: Path) -> str:
    (script.parent / "python").unlink(missing_ok=True)
    (script.parent / "python").symlink_to(sys.executable)
    done = subprocess.run([script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "first",
    [
        "#!/usr/bin/python",
        "#!/usr/bin/python3",
        "#! /usr/local/bin/python3.11",
        "#!/usr/bin/env python3",
        "#!/usr/bin/env python",
        "#!/usr/bin/python -s\r",
        "#!/usr/bin/env -S python3 -u -X dev",
        "#!/bin/sh\n'''exec' \"/a long/path/bin/python3.11\" -s \"$0\" \"$@\"\n' '''",
    ],
)
def test_a_script_that_calls_a_python_calls_the_one_next_to_it(first: str, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "script"
    assert rewrite(script, f"{first}\nimport sys\nprint(sys.executable, sys.flags.no_user_site)\n".encode())
    assert script.read_bytes().startswith(HEAD)
    assert run(script) == f"{tmp_path}/bin/python {int('-s' in first)}"


@pytest.mark.parametrize(
    "content",
    [b"#!/bin/bash\necho python\n", b"#!/usr/bin/env python2\nprint 1\n", b"#!/usr/bin/python3-dbg\n", b"\x7fELF", b""],
)
def test_another_script_stays_as_it_is(content: bytes, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "script"
    assert not rewrite(script, content)
    assert script.read_bytes() == content


def test_a_script_keeps_its_docstring_its_future_imports_and_its_encoding(tmp_path: Path) -> None:
    script = tmp_path / "bin" / "script"
    source = (
        "#!/usr/bin/python\n# -*- coding: latin-1 -*-\n# Licence\n\n"
        '"""Usage: é\n\n  \\d"""\nfrom __future__ import annotations\nx: Unknown = "é"\nprint(ascii([__doc__, x]))\n'
    )
    assert rewrite(script, source.encode("latin-1"))
    assert run(script) == ascii(["Usage: é\n\n  \\d", "é"])
    once = script.read_bytes()
    assert not relocate_script(script, script), "rewritten twice"
    assert script.read_bytes() == once


def test_scripts_are_not_written_through_hard_links_and_leave_the_record(tmp_path: Path) -> None:
    cached, info = tmp_path / "cached", tmp_path / "lib" / "python3.12" / "site-packages" / "a-1.dist-info"
    write(cached, "#!/usr/bin/python\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "script").hardlink_to(cached)
    write(tmp_path / "bin" / "tool", "#!/bin/sh\n")
    write(info / "RECORD", "../../../bin/script,sha256=1,18\n../../../bin/tool,sha256=2,10\n")
    relocate_scripts(tmp_path)
    assert cached.read_text() == "#!/usr/bin/python\n"
    assert (tmp_path / "bin" / "script").read_bytes().startswith(HEAD)
    assert (info / "RECORD").read_text() == "../../../bin/tool,sha256=2,10\n"
