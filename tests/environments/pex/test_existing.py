"""Existing PEX files, built with the options of pex that change how they start, and scies."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.archives import ArchiveStore
from airflow_provider_sparkdeps.environments import PexEnvironment
from airflow_provider_sparkdeps.environments.pex.existing import unpack
from airflow_provider_sparkdeps.environments.pex.pex_info import PexInfo, read_info
from airflow_provider_sparkdeps.environments.prefix.verify import verify_prefix
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import build, make_context
from ...support.pexes import BASE, MINOR, make_pex, run


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--no-compress"],
        ["--venv"],
        ["--venv", "--inherit-path=prefer"],
        ["--inherit-path=fallback"],
        ["--no-pre-install-wheels"],
        ["--sh-boot"],
        ["--entry-point", "this"],
        ["--no-strip-pex-env"],
    ],
    ids=" ".join,
)
def test_it_runs_as_an_interpreter_from_another_place(options: list[str], tmp_path: Path) -> None:
    file = make_pex(tmp_path / "app.pex", "six==1.16.0", "markupsafe", *options)
    built = build(PexEnvironment.from_pex(file), tmp_path / "prefix")
    assert built.packages.keys() == {"six", "markupsafe"}
    assert built.packages["six"] == "1.16.0"
    assert built.lock == tuple(f"{name}=={version}" for name, version in built.packages.items())
    moved = (tmp_path / "prefix").rename(tmp_path / "moved")
    verify_prefix(moved, built, deadline=make_context().deadline)
    done = run(moved, "import six, markupsafe._speedups; print(six.__version__)")
    assert (done.stdout, done.stderr) == ("1.16.0\n", "")


def test_a_file_that_is_not_a_pex_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.pex").write_text("#!/bin/sh\n")
    with zipfile.ZipFile(tmp_path / "other.pex", "w") as other:
        other.writestr("__main__.py", "")
    for name in ("text.pex", "other.pex"):
        with pytest.raises(InvalidArgumentError, match=rf"{name} is not a PEX: it is not a zip file with a PEX-INFO"):
            build(PexEnvironment.from_pex(tmp_path / name), tmp_path / "prefix")
    with pytest.raises(InvalidArgumentError, match="is not a PEX: it is a native program, but not a scie"):
        build(PexEnvironment.from_pex("/bin/true"), tmp_path / "prefix")


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_built_is_not_published(six: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(six, tmp_path / "app.pex"))
    environment = PexEnvironment.from_pex(file)
    key, store = environment.key, ArchiveStore(tmp_path / "store")

    def change(line: str) -> None:
        if line.startswith("relocate:"):
            shutil.copy(shutil.which("true") or "", file)

    with pytest.raises(InvalidArgumentError, match="its input files changed while it was built"):
        store.build(environment, timeout=60, progress=change)
    assert store.find(key) is None


def test_programs_and_links_in_it_are_kept(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.pex", "w") as archive:
        for name, mode, content in (("link", 0o120777, "tool"), ("tool", 0o100755, ""), ("doc", 0o100644, "")):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, content)
    unpack(tmp_path / "app.pex", tmp_path / "app", deadline=make_context().deadline)
    assert (tmp_path / "app/link").readlink() == Path("tool")
    assert [os.access(tmp_path / "app" / name, os.X_OK) for name in ("tool", "doc")] == [True, False]
    with pytest.raises(BuildError, match=r"It was unpacking app\.pex"):
        unpack(tmp_path / "app.pex", tmp_path / "late", deadline=make_context(timeout=-1).deadline)


@pytest.mark.slow
def test_one_for_another_python_is_refused_with_both_versions(tmp_path: Path) -> None:
    other = "3.13" if MINOR != "3.13" else "3.12"
    tight = make_pex(tmp_path / "tight.pex", "six", "--python-shebang=/usr/bin/env python3")
    rewrite_info(tight, f'"interpreter_constraints":["CPython=={other}.*"]')
    with pytest.raises(
        InvalidArgumentError, match=rf"tight\.pex is for Python {other} \(its interpreter .* Python {MINOR} pickles"
    ):
        build(PexEnvironment.from_pex(tight), tmp_path / "prefix")


def rewrite_info(file: Path, constraints: str) -> None:
    """Change the interpreter constraints of a PEX, so that no Python of that version is needed to build it."""
    with zipfile.ZipFile(file) as old:
        entries = [(entry, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(file, "w") as new:
        for entry, content in entries:
            new.writestr(entry, content.replace(b'"interpreter_constraints":[]', constraints.encode()))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="the substitute for the launcher of a scie is compiled")
class TestScie:
    """A scie, except that its launcher runs this Python. The real launcher and Python would have to be downloaded."""

    @pytest.fixture
    def scie(self, six: Path, tmp_path: Path) -> Path:
        program = tmp_path / "launcher.c"
        program.write_text(
            "#include <unistd.h>\nint main(int n, char **old) { char *new[n + 2]; int i;\n"
            f' new[0] = "{BASE}"; new[1] = "{six}"; for (i = 1; i <= n; i++) new[i + 1] = old[i];\n'
            " return execv(new[0], new); }\n"
        )
        subprocess.run(["cc", "-o", tmp_path / "launcher", program], check=True)
        file = tmp_path / "app"
        manifest = b'\n{"scie":{"lift":{"name":"app"}}}\n'
        file.write_bytes((tmp_path / "launcher").read_bytes() + six.read_bytes() + manifest)
        return file

    def test_it_needs_no_python_on_path(self, scie: Path, tmp_path: Path) -> None:
        assert read_info(scie).scie
        built = build(PexEnvironment.from_pex(scie), tmp_path / "prefix")
        assert built.packages.keys() == {"six", "markupsafe"}
        moved = (tmp_path / "prefix").rename(tmp_path / "moved")
        verify_prefix(moved, built, deadline=make_context().deadline)
        assert run(moved, "import six; print(six.__version__)", PATH="/nonexistent").stdout == "1.16.0\n"

    def test_its_packages_are_known_even_if_its_metadata_cannot_be_read(self, scie: Path, tmp_path: Path) -> None:
        with scie.open("ab") as file:
            file.write(b" " * 100_000)
        assert read_info(scie) == PexInfo(scie=True, constraints=(), wheels=())
        assert build(PexEnvironment.from_pex(scie), tmp_path / "prefix").packages["six"] == "1.16.0"

    def test_one_with_another_python_is_refused_with_both_versions(self, scie: Path, tmp_path: Path) -> None:
        environment = PexEnvironment.from_pex(scie, python="3.99")
        with pytest.raises(InvalidArgumentError, match=r"app (contains|is for) Python .* but Python 3\.99 pickles"):
            build(environment, tmp_path / "prefix")
