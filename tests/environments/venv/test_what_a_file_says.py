"""What a file says is what is installed, or it is refused by name; what is local in it is never asked of an index."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_sparkdeps.environments import PexEnvironment, VenvEnvironment
from airflow_provider_sparkdeps.environments.uv import uv_binary
from airflow_provider_sparkdeps.exceptions import BuildError, InvalidArgumentError

from ...support.build_contexts import build, make_context
from ...support.package_index import Index
from ...support.projects import commit, make_library, write

LOCAL = {"app", "lib", "sib", "root"}
APP = '[project]\nname = "app"\nversion = "1"\n'


def resolve(path: Path, **options: Any) -> tuple[str, ...]:
    """Return the lock of what a file describes, without digests of local projects."""
    environment = VenvEnvironment.from_file(path, bundle_python=False, **options)
    return tuple(line.split(" ")[0] for line in environment.resolve_lock(make_context()))


def packages(path: Path, prefix: Path, **options: Any) -> dict[str, str]:
    """Return what is installed for a file."""
    return dict(build(VenvEnvironment.from_file(path, bundle_python=False, **options), prefix).packages)


def uv(*arguments: str, cwd: Path) -> None:
    subprocess.run([uv_binary(), *arguments, "--quiet", "--python", sys.executable], cwd=cwd, check=True)


def sha256(index: Index, name: str) -> str:
    return hashlib.sha256((index.wheels / f"{name}-py3-none-any.whl").read_bytes()).hexdigest()


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    return make_library(tmp_path / "lib", name="lib", more='dependencies = ["bee"]')


# requirements.txt


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        *((VenvEnvironment, spec) for spec in ("ant==1", "ant==1.0", "ant===1.0")),
        *((PexEnvironment, spec) for spec in ("ant==1",)),
    ],
)
def test_hashes_are_checked_however_the_version_is_spelled(
    spec: str, kind: type[VenvEnvironment | PexEnvironment], strangers: Index, tmp_path: Path
) -> None:
    path = write(tmp_path / "requirements.txt", f"{spec} --hash=sha256:{sha256(strangers, 'ant-1.0')}\n")
    options: dict[str, Any] = {"bundle_python": False} if kind is VenvEnvironment else {}
    assert build(kind.from_file(path, **options), tmp_path / "right").packages == {"ant": "1.0"}
    write(path, f"{spec} --hash=sha256:{'0' * 64}\n")
    with pytest.raises(BuildError, match=r"Hash mismatch for `ant==1\.0`"):
        build(kind.from_file(path, **options), tmp_path / "wrong")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ant --hash=sha256:{0}", "all requirements must have their versions pinned with `==`, but found: ant"),
        ("ant>=1 --hash=sha256:{0}", "versions pinned with `==`"),
        ("--require-hashes\nant==1.0", "all requirements must have a hash, but none were provided for: ant==1.0"),
        ("ant==1.0 --hash=sha256:{0}\nbee==1.0", "none were provided for: bee==1.0"),
        ("ant==1.0 \\\n\t--hash=sha256:{1}", "Hash mismatch"),
        ("ant==1.0\t--hash=sha256:{1}", "Hash mismatch"),
        ("ant==1.0 --hash=sha256:{0}\n./lib", "bee must be in the requirements with a hash"),
        ("dog==1.0 --hash=sha256:{1}", "bee"),
        (
            "ant==1.0\n--use-feature fast-deps",
            "uv would ignore something: Ignoring unsupported option in .*--use-feature",
        ),
        ("--prefer-binary\nant", "uv would ignore something: Ignoring unsupported option in .*--prefer-binary"),
        ("ant==1.0\n--global-option x", "Unexpected"),
        ("ant==1.0 --config-settings a=b", "config-settings"),
        ("ant => 1", r"parse requirement in `/\S*/requirements\.txt`"),
        ("lost==1", "there is no version of lost==1"),
    ],
)
def test_what_uv_refuses_or_ignores_is_an_error(
    text: str, message: str, strangers: Index, tmp_path: Path, lib: Path
) -> None:
    filled = text.format(sha256(strangers, "ant-1.0"), sha256(strangers, "dog-1.0"))
    with pytest.raises(BuildError, match=message):
        packages(write(tmp_path / "requirements.txt", filled), tmp_path / "prefix")


def test_local_projects_need_no_hash(strangers: Index, tmp_path: Path, lib: Path) -> None:
    text = f"./lib\nant==1.0 --hash=sha256:{sha256(strangers, 'ant-1.0')}\n-r more.txt\n"
    write(tmp_path / "more.txt", f"bee==1.0 --hash=sha256:{sha256(strangers, 'bee-1.0')}\n")
    path = write(tmp_path / "requirements.txt", text)
    assert packages(path, tmp_path / "right") == {"ant": "1.0", "bee": "1.0", "lib": "1.0"}
    write(tmp_path / "more.txt", f"bee==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(BuildError, match=r"Hash mismatch for `bee==1\.0`"):
        packages(path, tmp_path / "wrong")


@pytest.mark.parametrize(
    ("text", "lock"),
    [
        ("ant", ("ant==2.0",)),
        ("--pre\nant", ("ant==3.0a1",)),
        ("--trusted-host 127.0.0.1\nant", ("ant==2.0",)),
        ("-rbase.txt\n-climits.txt", ("ant==1.5",)),
        ("--requirement='base.txt' # x\n--constraint limits.txt", ("ant==1.5",)),
        ("{url}files/ant-1.0-py3-none-any.whl", ("ant",)),
        ("ant @ {url}files/ant-1.0-py3-none-any.whl", ("ant",)),
        ("--no-index\n-f wheels\nant", ("ant==1.0",)),
        ("-e./lib", ("bee==2.0", "lib==1.0")),
        ("./lib\nlib", ("bee==2.0", "lib==1.0")),
        ("dog ; python_version > '3'\ncow ; python_version < '3'", ("bee==2.0", "dog==2.0")),
    ],
)
def test_what_pip_reads_is_read(text: str, lock: tuple[str, ...], strangers: Index, tmp_path: Path, lib: Path) -> None:
    write(tmp_path / "base.txt", "ant\n")
    write(tmp_path / "limits.txt", "ant<2\ncow==1.0\n")
    shutil.copytree(strangers.wheels, tmp_path / "wheels", ignore=lambda *_: [])
    for wheel in (tmp_path / "wheels").glob("ant-[123].[05a]*"):
        if "1.0" not in wheel.name:
            wheel.unlink()
    url = strangers.url.removesuffix("simple/")
    assert resolve(write(tmp_path / "requirements.txt", text.format(url=url))) == lock
    assert not strangers.names_asked() & LOCAL


def test_all_options_of_a_line_are_read(strangers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_INDEX")
    write(tmp_path / "base.txt", "ant\n")
    text = f"--extra-index-url {strangers.url} -r base.txt --pre\n"
    assert resolve(write(tmp_path / "requirements.txt", text)) == ("ant==3.0a1",)
    text = f"-i {strangers.url} --trusted-host 127.0.0.1\nant\n"
    assert resolve(write(tmp_path / "requirements.txt", text)) == ("ant==2.0",)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_files_in_other_encodings_are_read(encoding: str, strangers: Index, tmp_path: Path) -> None:
    head = f"# -*- coding: {encoding} -*-\n" if encoding == "latin-1" else ""
    (tmp_path / "requirements.txt").write_bytes(f"{head}ant<2  # caf\u00e9\n".encode(encoding))
    assert resolve(tmp_path / "requirements.txt") == ("ant==1.5",)


def test_a_project_is_found_from_where_the_build_starts(strangers: Index, tmp_path: Path) -> None:
    make_library(tmp_path, name="app", more='dependencies = ["ant"]')
    write(tmp_path / "requirements" / "dev.txt", "-e .\n-r base.txt\n")
    write(tmp_path / "requirements" / "base.txt", "bee\n")
    assert resolve(Path("requirements/dev.txt"), base_dir=tmp_path) == ("ant==2.0", "app==1.0", "bee==2.0")
    assert "app" not in strangers.names_asked()


# pyproject.toml


def test_an_extra_of_its_own_in_a_group_is_the_projects_and_not_a_strangers(strangers: Index, tmp_path: Path) -> None:
    text = (
        f'{APP}dependencies = []\n[project.optional-dependencies]\nx = ["ant<2", "app[y]"]\ny = ["cow"]\n'
        '[dependency-groups]\nt = ["App[x]", "bee"]\nu = [{ include-group = "t" }]\n'
    )
    path = write(tmp_path / "pyproject.toml", text)
    expected = {"ant": "1.5", "bee": "2.0", "cow": "2.0"}
    assert packages(path, tmp_path / "t", groups=["t"]) == expected
    assert packages(path, tmp_path / "u", groups=["u"]) == expected
    assert packages(path, tmp_path / "x", extras=["x"]) == {"ant": "1.5", "cow": "2.0"}
    uv("lock", cwd=tmp_path)
    assert packages(path, tmp_path / "locked", groups=["u"]) == expected
    assert "app" not in strangers.names_asked()


def test_what_needs_the_project_itself_gets_its_extras(strangers: Index, tmp_path: Path) -> None:
    make_library(tmp_path / "elk", name="lib", more='dependencies = ["app[x]"]')
    extras = '[project.optional-dependencies]\nx = ["cow"]\n'
    text = f'{APP}dependencies = ["lib"]\n{extras}[tool.uv.sources]\nlib = {{ path = "elk" }}\n'
    assert resolve(write(tmp_path / "pyproject.toml", text)) == ("cow==2.0", "lib==1.0")
    assert not strangers.names_asked() & LOCAL


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[tool.uv.dependency-groups]\nt = { requires-python = ">=3.99" }\n', r"requires Python >=3\.99"),
        ('[[tool.poetry.source]]\nname = "ours"\nurl = "https://example.com"\n', r"\[\[tool\.poetry\.source\]\]"),
        (
            '[tool.poetry.dependencies]\nant = { path = "../ant" }\n',
            r"\[tool\.poetry\.dependencies\] where ant comes from",
        ),
        ('[[tool.pdm.source]]\nname = "ours"\nurl = "https://example.com"\n', r"\[\[tool\.pdm\.source\]\]"),
        ('[tool.uv]\nextra-index-url = ["./lost"]\n', "lost: there is no such directory"),
    ],
)
def test_what_would_be_ignored_is_refused_by_name(more: str, message: str, strangers: Index, tmp_path: Path) -> None:
    text = f'{APP}dependencies = ["ant"]\n[dependency-groups]\nt = ["bee"]\n{more}'
    with pytest.raises(InvalidArgumentError, match=message):
        resolve(write(tmp_path / "pyproject.toml", text), groups=["t"])


def test_a_local_index_is_used(strangers: Index, tmp_path: Path) -> None:
    simple = tmp_path / "simple" / "ant"
    simple.mkdir(parents=True)
    shutil.copy(strangers.wheels / "ant-1.0-py3-none-any.whl", simple)
    write(simple / "index.html", '<a href="ant-1.0-py3-none-any.whl">ant-1.0-py3-none-any.whl</a>')
    text = f'{APP}dependencies = ["ant"]\n[tool.uv]\nextra-index-url = ["./simple"]\n'
    environment = VenvEnvironment.from_file(write(tmp_path / "pyproject.toml", text), bundle_python=False)
    before = environment.key
    write(simple / "index.html", "")
    assert environment.key != before


@pytest.mark.parametrize("option", ["-i", "--index-url", "--extra-index-url="])
def test_a_local_index_of_a_requirements_txt_is_used(
    option: str, strangers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_INDEX")
    simple = tmp_path / "simple" / "ant"
    simple.mkdir(parents=True)
    shutil.copy(strangers.wheels / "ant-1.0-py3-none-any.whl", simple)
    write(simple / "index.html", '<a href="ant-1.0-py3-none-any.whl">ant-1.0-py3-none-any.whl</a>')
    path = write(tmp_path / "requirements.txt", f"{option} ./simple\nant\n")
    assert packages(path, tmp_path / "prefix") == {"ant": "1.0"}


SETUPTOOLS = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
DYNAMIC = (
    f'{APP}dynamic = ["dependencies"]\n[project.optional-dependencies]\nx = ["bee"]\n[dependency-groups]\nt = ["cow"]\n'
    f'[tool.setuptools]\npackages = []\n[tool.setuptools.dynamic]\ndependencies = {{ file = ["in.txt"] }}\n{SETUPTOOLS}'
)
POETRY = (
    '[tool.poetry]\nname = "app"\nversion = "1"\ndescription = ""\nauthors = []\npackage-mode = true\n'
    '[tool.poetry.dependencies]\npython = ">=3.9"\nant = "^1.0"\nbee = { version = "*", optional = true }\n'
    '[tool.poetry.extras]\nx = ["bee"]\n[dependency-groups]\nt = ["cow"]\n'
    '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
)


@pytest.mark.slow
@pytest.mark.parametrize("text", [DYNAMIC, POETRY], ids=["setuptools", "poetry"])
def test_dependencies_that_only_the_build_backend_knows_are_installed(
    text: str, strangers: Index, tmp_path: Path
) -> None:
    path = write(tmp_path / "pyproject.toml", text)
    write(tmp_path / "in.txt", "ant<2\n")
    write(tmp_path / "app" / "__init__.py", "")
    before = set(tmp_path.rglob("*"))
    assert resolve(path) == ("ant==1.5",)
    assert resolve(path, extras=["x"]) == ("ant==1.5", "bee==2.0")
    assert resolve(path, groups=["t"], extras=["x"]) == ("ant==1.5", "bee==2.0", "cow==2.0")
    assert set(tmp_path.rglob("*")) == before, "something was written into the project"
    assert "app" not in strangers.names_asked()


@pytest.mark.slow
def test_path_dependencies_of_poetry_are_local(strangers: Index, tmp_path: Path, lib: Path) -> None:
    text = POETRY.replace('ant = "^1.0"', 'lib = { path = "../lib", develop = true }')
    path = write(tmp_path / "app" / "pyproject.toml", text)
    write(tmp_path / "app" / "app" / "__init__.py", "")
    assert resolve(path) == ("bee==2.0", "lib==1.0")
    assert not strangers.names_asked() & LOCAL


def test_settings_of_uv_are_obeyed(strangers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_INDEX")
    text = f'{APP}dependencies = ["ant"]\n[tool.uv]\nindex-url = "{strangers.url}"\n'
    path = write(tmp_path / "pyproject.toml", text)
    assert resolve(path) == ("ant==2.0",)
    assert resolve(write(path, f'{text}constraint-dependencies = ["ant<2"]\n')) == ("ant==1.5",)
    assert resolve(write(path, f'{text}override-dependencies = ["ant==1.0"]\n')) == ("ant==1.0",)
    assert resolve(write(path, f'{text}prerelease = "allow"\n')) == ("ant==3.0a1",)
    old = f'{APP}dependencies = ["six"]\n[tool.uv]\nexclude-newer = "2021-01-01T00:00:00Z"\n'
    assert resolve(write(path, old)) == ("six==1.15.0",)
    write(tmp_path / "uv.toml", f'index-url = "{strangers.url}"\nprerelease = "allow"\n')
    assert resolve(write(path, f'{APP}dependencies = ["ant"]\n')) == ("ant==3.0a1",)


def test_what_a_uv_toml_would_hide_is_refused_by_name(strangers: Index, tmp_path: Path) -> None:
    text = f'{APP}dependencies = ["ant"]\n[tool.uv]\nconstraint-dependencies = ["ant<2"]\n'
    path = write(tmp_path / "pyproject.toml", text)
    write(tmp_path / "uv.toml", 'prerelease = "allow"\n')
    with pytest.raises(BuildError, match=r"would ignore something: Found both a `uv\.toml`(?s:.*)constraint-dep"):
        resolve(path)


@pytest.mark.parametrize(("options", "message"), [({"extras": ["lost"]}, "lost"), ({"groups": ["lost"]}, "lost")])
def test_an_extra_or_group_that_does_not_exist_is_an_error(
    options: dict[str, list[str]], message: str, strangers: Index, tmp_path: Path
) -> None:
    path = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant"]\n')
    with pytest.raises(BuildError, match=message):
        resolve(path, **options)


def test_a_patch_release_that_the_project_excludes_is_refused(strangers: Index, tmp_path: Path) -> None:
    own = ".".join(map(str, sys.version_info[:3]))
    path = write(tmp_path / "pyproject.toml", f'{APP}requires-python = "!={own}"\ndependencies = ["ant"]\n')
    with pytest.raises(InvalidArgumentError, match=f"requires Python !={own}, which excludes {own}"):
        resolve(path)


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize(
    ("setting", "names"),
    [("", "ant"), ('[tool.uv]\ndefault-groups = ["t"]\n', "ant bee"), ('[tool.uv]\ndefault-groups = "all"\n', "*")],
)
def test_default_groups_that_a_project_sets_are_installed(
    setting: str, names: str, locked: bool, strangers: Index, tmp_path: Path
) -> None:
    groups = '[dependency-groups]\nt = ["bee"]\ndev = ["cow"]\n'
    path = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant"]\n{groups}{setting}')
    if locked:
        uv("lock", cwd=tmp_path)
    found = [line.partition("==")[0] for line in resolve(path)]
    assert found == ("ant bee cow" if names == "*" else names).split()


def test_groups_without_a_project_are_installed(strangers: Index, tmp_path: Path) -> None:
    assert resolve(write(tmp_path / "pyproject.toml", '[dependency-groups]\nt = ["ant"]\n'), groups=["t"]) == (
        "ant==2.0",
    )


# Workspaces and locks


def workspace(root: Path, *, source: bool = True) -> Path:
    """A workspace whose member app needs the member sib; sources and constraints stand at the root."""
    sources = "[tool.uv.sources]\nsib = { workspace = true }\n" if source else ""
    write(
        root / "pyproject.toml",
        f'[tool.uv.workspace]\nmembers = ["libs/*"]\n{sources}[tool.uv]\nconstraint-dependencies = ["ant<2"]\n',
    )
    make_library(root / "libs" / "sib", name="sib", more='dependencies = ["bee"]')
    return make_library(root / "libs" / "app", name="app", more='dependencies = ["sib", "ant"]')


def test_members_of_a_workspace_are_local(strangers: Index, tmp_path: Path) -> None:
    member = workspace(tmp_path)
    expected = {"ant": "1.5", "bee": "2.0", "sib": "1.0"}
    assert packages(member / "pyproject.toml", tmp_path / "unlocked") == expected
    listed = VenvEnvironment(["./libs/app"], base_dir=tmp_path, bundle_python=False)
    assert build(listed, tmp_path / "listed").packages == {**expected, "app": "1.0"}
    uv("lock", cwd=tmp_path)
    assert packages(member / "pyproject.toml", tmp_path / "locked") == expected
    assert not strangers.names_asked() & LOCAL


def test_what_a_package_of_the_index_needs_is_local_too(strangers: Index, tmp_path: Path) -> None:
    # dog, of the index, needs bee, which is a member of the workspace, or a path source of a group.
    make_library(tmp_path / "libs" / "bee", name="bee")
    make_library(tmp_path / "libs" / "app", name="app", more='dependencies = ["dog"]')
    write(tmp_path / "pyproject.toml", '[tool.uv.workspace]\nmembers = ["libs/*"]\n')
    listed = VenvEnvironment(["./libs/app"], base_dir=tmp_path)
    assert "bee==1.0" in "".join(listed.resolve_lock(make_context()))
    assert resolve(tmp_path / "libs" / "app" / "pyproject.toml") == ("bee==1.0", "dog==2.0")
    (tmp_path / "pyproject.toml").unlink()
    source = '[dependency-groups]\ng = ["bee"]\n[tool.uv.sources]\nbee = { path = "../libs/bee" }\n'
    assert resolve(write(tmp_path / "own" / "pyproject.toml", f'{APP}dependencies = ["dog"]\n{source}')) == (
        "bee==1.0",
        "dog==2.0",
    )
    assert not strangers.names_asked() & {*LOCAL, "bee"}


def test_a_setting_that_uv_does_not_know_is_refused(strangers: Index, tmp_path: Path) -> None:
    # uv warns, and ignores the whole table.
    text = f'{APP}dependencies = ["ant"]\n[tool.uv]\nconstraint-dependencies = ["ant<2"]\nlink-mode = "odd"\n'
    with pytest.raises(BuildError, match=r"uv would ignore something: Failed to parse .*pyproject\.toml"):
        resolve(write(tmp_path / "pyproject.toml", text))


def test_a_member_that_no_source_names_is_refused_and_not_asked_of_an_index(strangers: Index, tmp_path: Path) -> None:
    member = workspace(tmp_path, source=False)
    listed = VenvEnvironment(["./libs/app"], base_dir=tmp_path)
    for environment in (VenvEnvironment.from_file(member / "pyproject.toml"), listed):
        with pytest.raises(BuildError, match=r"missing an entry in `tool\.uv\.sources`"):
            environment.resolve_lock(make_context())
    assert not strangers.names_asked() & LOCAL


def test_the_lock_at_the_root_is_used_for_a_member(strangers: Index, tmp_path: Path) -> None:
    member = workspace(tmp_path)
    uv("lock", "--upgrade-package", "ant==1.0", cwd=tmp_path)
    assert "1.0" in packages(member / "pyproject.toml", tmp_path / "prefix")["ant"]


def test_a_lock_is_compared_with_its_project_by_uv(strangers: Index, tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant<2"]\n')
    uv("lock", cwd=tmp_path)
    assert resolve(path) == ("ant==1.5",)
    write(path, f'{APP}description = "x"\ndependencies = ["ant < 2"]\n')
    assert resolve(path) == ("ant==1.5",)
    write(path, f'{APP}dependencies = ["ant<1.5"]\n')
    with pytest.raises(BuildError, match=r"lockfile .* needs to be updated"):
        resolve(path)


def test_the_lock_that_uv_refuses_is_named(strangers: Index, tmp_path: Path) -> None:
    script = write(tmp_path / "job.py", '# /// script\n# dependencies = ["ant"]\n# ///\n')
    uv("lock", "--script", "job.py", cwd=tmp_path)
    write(script, script.read_text().replace("ant", "bee"))
    with pytest.raises(BuildError, match=rf"read the lock of {script}(?s:.*)settings of this worker"):
        resolve(script)


def test_a_lock_for_other_platforms_is_refused_by_its_own_name(strangers: Index, tmp_path: Path) -> None:
    only = "[tool.uv]\nenvironments = ['sys_platform == \"darwin\"']\n"
    path = write(tmp_path / "pyproject.toml", f'{APP}requires-python = ">=3.9"\ndependencies = ["ant"]\n{only}')
    uv("lock", cwd=tmp_path)
    with pytest.raises(BuildError, match=r"^The lock of pyproject\.toml is not for Python"):
        resolve(path)


@pytest.mark.slow
def test_a_lock_of_a_project_with_dynamic_dependencies_is_installed(strangers: Index, tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", DYNAMIC)
    write(tmp_path / "in.txt", "ant<2\n")
    uv("lock", cwd=tmp_path)
    assert resolve(path) == ("ant==1.5",)
    assert resolve(path, extras=["x"], groups=["t"]) == ("ant==1.5", "bee==2.0", "cow==2.0")
    write(tmp_path / "in.txt", "ant<1.5\n")
    with pytest.raises(BuildError, match=r"lockfile .* needs to be updated"):
        resolve(path)


PYLOCK = 'lock-version = "1.0"\ncreated-by = "x"\n{}\n[[packages]]\nname = "ant"\nversion = "1.0"\n{}\n'


@pytest.mark.parametrize(
    ("head", "package", "message"),
    [
        ('requires-python = "<3.9"', "", "3.9"),
        ("environments = [\"python_version < '3.9'\"]", "", r"pylock\.toml is not for Python"),
        ("environments = [\"sys_platform == 'win32'\"]", "", r"pylock\.toml is not for Python"),
        ("", 'requires-python = "<3.9"', "3.9"),
        ("", '[[packages]]\nname = "ant"\nversion = "2.0"', "selects ant twice"),
    ],
)
def test_a_pylock_for_something_else_is_refused(
    head: str, package: str, message: str, strangers: Index, tmp_path: Path
) -> None:
    wheel = f'wheels = [{{ url = "{strangers.url}x", hashes = {{ sha256 = "{"0" * 64}" }} }}]'
    path = write(tmp_path / "pylock.toml", PYLOCK.format(head, f"{wheel}\n{package}" if "[[" in package else package))
    with pytest.raises(BuildError, match=message):
        packages(path, tmp_path / "prefix")


@pytest.mark.parametrize("entry", ["wheels = [{}]", "archive = {}"])
def test_the_hash_name_and_version_of_a_local_file_in_a_pylock_are_checked(
    entry: str, strangers: Index, tmp_path: Path
) -> None:
    wheel = Path(shutil.copy(strangers.wheels / "ant-1.0-py3-none-any.whl", tmp_path))

    def locked(name: str, version: str, digest: str) -> str:
        place = f'{{ path = "{wheel.name}", hashes = {{ sha256 = "{digest}" }} }}'
        package = f'[[packages]]\nname = "{name}"\nversion = "{version}"\n{entry.replace("{}", place)}\n'
        return f'lock-version = "1.0"\ncreated-by = "x"\n{package}'

    right = sha256(strangers, "ant-1.0")
    path = write(tmp_path / "pylock.toml", locked("ant", "1.0", right))
    assert packages(path, tmp_path / "prefix") == {"ant": "1.0"}
    for text, message in (
        (locked("ant", "1.0", "0" * 64), "is not the file that was locked"),
        (locked("cow", "1.0", right), "is ant 1.0, and not cow 1.0"),
        (locked("ant", "2.0", right), "is ant 1.0, and not ant 2.0"),
    ):
        with pytest.raises(BuildError, match=message):
            resolve(write(path, text))


def test_the_hash_of_a_local_wheel_in_a_uv_lock_is_checked(strangers: Index, tmp_path: Path) -> None:
    wheel = Path(shutil.copy(strangers.wheels / "ant-1.0-py3-none-any.whl", tmp_path))
    source = f'[tool.uv.sources]\nant = {{ path = "{wheel.name}" }}\n'
    path = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant"]\n{source}')
    uv("lock", cwd=tmp_path)
    assert resolve(path) == ("ant==1.0",)
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    with pytest.raises(BuildError, match=r"is not the file that was locked|needs to be updated|[Hh]ash"):
        resolve(path)


def test_a_project_in_a_subdirectory_of_a_pylock_is_installed(strangers: Index, tmp_path: Path) -> None:
    make_library(tmp_path / "mono", name="sib")
    make_library(tmp_path / "mono" / "sub", name="lib")
    text = 'lock-version = "1.0"\n[[packages]]\nname = "lib"\ndirectory = { path = "mono", subdirectory = "sub" }\n'
    assert packages(write(tmp_path / "pylock.toml", text), tmp_path / "prefix") == {"lib": "1.0"}


# Settings of the worker


def test_settings_of_the_worker_do_not_replace_what_a_file_says(
    strangers: Index, tmp_path: Path, lib: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = '[tool.uv.sources]\nlib = { path = "../lib" }\n'
    path = write(tmp_path / "app" / "pyproject.toml", f'{APP}dependencies = ["lib", "ant<2"]\n{source}')
    monkeypatch.setenv("UV_NO_SOURCES", "1")
    monkeypatch.setenv("UV_OVERRIDE", str(write(tmp_path / "overrides.txt", "ant==2.0\n")))
    monkeypatch.setenv("UV_CONSTRAINT", str(write(tmp_path / "constraints.txt", "bee==1.0\n")))
    write(tmp_path / "uv.toml", 'prerelease = "allow"\n')
    assert resolve(path) == ("ant==1.5", "bee==2.0", "lib==1.0")
    assert not strangers.names_asked() & LOCAL


def test_what_a_worker_that_requires_hashes_cannot_check_is_refused(
    strangers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant"]\n')
    listed = write(tmp_path / "requirements.txt", "ant\n")
    script = write(tmp_path / "job.py", '# /// script\n# dependencies = ["ant"]\n# ///\n')
    hashed = write(tmp_path / "hashed.txt", f"ant==1.0 --hash=sha256:{sha256(strangers, 'ant-1.0')}\n")
    monkeypatch.setenv("UV_REQUIRE_HASHES", "1")
    for path in (project, listed, script):
        with pytest.raises(BuildError, match="UV_REQUIRE_HASHES is set on this worker"):
            resolve(path)
    assert packages(hashed, tmp_path / "prefix") == {"ant": "1.0"}
    uv("lock", cwd=tmp_path)
    uv("lock", "--script", "job.py", cwd=tmp_path)
    assert resolve(project) == resolve(script) == ("ant==2.0",)
    monkeypatch.setenv("UV_REQUIRE_HASHES", "false")
    assert resolve(listed) == ("ant==2.0",)


def test_settings_of_the_worker_that_do_not_apply_are_reported(
    strangers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OVERRIDE", "overrides.txt")
    monkeypatch.setenv("UV_COMPILE_BYTECODE", "1")
    lines: list[str] = []
    VenvEnvironment(["ant"]).resolve_lock(make_context(lines=lines))
    assert [line for line in lines if "do not apply here: UV_COMPILE_BYTECODE, UV_OVERRIDE" in line]
    assert not [line for line in lines if "warning" in line]


@pytest.mark.parametrize("lock", [False, True])
def test_settings_of_a_project_apply_to_the_installation(lock: bool, strangers: Index, tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", f'{APP}dependencies = ["ant"]\n[tool.uv]\nno-binary-package = ["ant"]\n')
    if lock:
        text = path.read_text()
        write(path, text.partition("[tool.uv]")[0])
        uv("lock", cwd=tmp_path)
        write(path, text)
    with pytest.raises(BuildError, match="ant"):
        packages(path, tmp_path / "prefix")


# Local projects


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.slow
def test_a_version_that_comes_from_git_is_built(strangers: Index, tmp_path: Path) -> None:
    root = tmp_path / "repo"
    text = (
        '[project]\nname = "lib"\ndynamic = ["version"]\n[tool.setuptools_scm]\nroot = ".."\n'
        '[build-system]\nrequires = ["setuptools", "setuptools_scm"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    write(root / "lib" / "pyproject.toml", text)
    write(root / "lib" / "src" / "lib" / "__init__.py", "")
    write(root / "other.txt", "")
    commit(root)
    subprocess.run(["git", "tag", "v7.1"], cwd=root, check=True)
    listed = VenvEnvironment(["./repo/lib"], base_dir=tmp_path, bundle_python=False)
    assert build(listed, tmp_path / "prefix").packages == {"lib": "7.1"}
    assert not subprocess.run(["git", "status", "--short", "lib"], cwd=root, capture_output=True, check=True).stdout
    write(
        root / "app" / "pyproject.toml",
        f'{APP}dependencies = ["lib"]\n[tool.uv.sources]\nlib = {{ path = "../lib" }}\n',
    )
    uv("lock", cwd=root / "app")
    assert packages(root / "app" / "uv.lock", tmp_path / "locked") == {"lib": "7.1"}
    assert not strangers.names_asked() & LOCAL


def test_packages_with_the_names_of_leftovers_are_built(strangers: Index, tmp_path: Path) -> None:
    names = ("venv", "build", "dist", "node_modules")
    lib = make_library(tmp_path / "lib", name="lib")
    for name in names:
        write(lib / "src" / "lib" / name / "__init__.py", "")
        write(lib / name / "__init__.py", "")
    included = ", ".join(f'"{name}"' for name in ("src/lib", *names))
    text = (lib / "pyproject.toml").read_text() + f"[tool.hatch.build.targets.wheel]\npackages = [{included}]\n"
    write(lib / "pyproject.toml", text)
    build(VenvEnvironment(["./lib"], base_dir=tmp_path, bundle_python=False), tmp_path / "prefix")
    (site,) = (tmp_path / "prefix").glob("lib/python3.*/site-packages")
    found = {path.parent.relative_to(site).as_posix() for path in site.rglob("__init__.py")}
    # hatchling leaves out a `dist` at the top.
    assert found == {"lib", *(f"lib/{name}" for name in names), *names} - {"dist"}


def test_files_elsewhere_that_a_project_names_are_there_when_it_is_built(strangers: Index, tmp_path: Path) -> None:
    lib = make_library(tmp_path / "lib", name="lib", more='license = { file = "../LICENSE" }')
    force = '[tool.hatch.build.targets.wheel.force-include]\n"../shared" = "lib/shared"\n'
    write(lib / "pyproject.toml", (lib / "pyproject.toml").read_text() + force)
    for name in ("LICENSE", "shared/words.txt"):
        write(tmp_path / name, name)
    environment = VenvEnvironment(["./lib"], base_dir=tmp_path, bundle_python=False)
    build(environment, tmp_path / "prefix")
    assert [*(tmp_path / "prefix").glob("lib/python3.*/site-packages/lib/shared/words.txt")]
    for name in ("LICENSE", "shared/words.txt"):
        before = environment.key
        write(tmp_path / name, "other")
        assert environment.key != before, name


def test_a_local_path_outside_of_what_the_key_depends_on_is_refused(
    strangers: Index, tmp_path: Path, lib: Path
) -> None:
    sib = make_library(tmp_path / "sib", name="sib")
    needs = f"install_requires=['sib @ {sib.as_uri()}']"
    write(tmp_path / "app" / "setup.py", f"import setuptools\nsetuptools.setup(name='app', {needs})")
    path = write(tmp_path / "requirements.txt", "./app\n")
    with pytest.raises(BuildError, match="is not a file that the key depends on"):
        resolve(path)


# Inline metadata


def test_inline_metadata_is_installed(strangers: Index, tmp_path: Path, lib: Path) -> None:
    text = '# /// script\n# dependencies = ["ant<2", "lib"]\n# [tool.uv.sources]\n# lib = { path = "lib" }\n# ///\n'
    script = write(tmp_path / "job.py", f"{text}raise SystemExit\n")
    expected = {"ant": "1.5", "bee": "2.0", "lib": "1.0"}
    for number, environment in enumerate(
        (VenvEnvironment.from_script(script, bundle_python=False), PexEnvironment.from_script(script))
    ):
        assert build(environment, tmp_path / str(number)).packages == expected
    assert not strangers.names_asked() & LOCAL
    uv("lock", "--script", "job.py", cwd=tmp_path)
    write(script, text.replace("<2", "<1.5"))
    with pytest.raises(BuildError, match="needs to be updated"):
        resolve(script)


def test_a_file_in_the_project_that_it_refers_to_is_installed_as_it_is(strangers: Index, tmp_path: Path) -> None:
    make_library(tmp_path / "lib", name="lib")
    package = tmp_path / "lib" / "src" / "lib"
    block = '# /// script\n# dependencies = ["lib"]\n# [tool.uv.sources]\n# lib = { path = "../.." }\n# ///\nCODE = 1\n'
    script = write(package / "job.py", block)
    requirements = write(package / "requirements.txt", "../..  # ours\n-r more.txt\n")
    more = write(package / "more.txt", "ant  # theirs\n")
    environments = (
        VenvEnvironment.from_script(script, bundle_python=False),
        VenvEnvironment.from_file(requirements, base_dir=package, bundle_python=False),
    )
    for number, environment in enumerate(environments):
        build(environment, tmp_path / str(number))
        (site,) = (tmp_path / str(number)).glob("lib/python3.*/site-packages/lib")
        for file in (script, requirements, more):
            assert (site / file.name).read_text() == file.read_text()


def test_inline_metadata_for_another_python_is_refused(strangers: Index, tmp_path: Path) -> None:
    path = write(tmp_path / "job.py", '# /// script\n# requires-python = ">=3.99"\n# dependencies = ["ant"]\n# ///\n')
    with pytest.raises(InvalidArgumentError, match=r"requires Python >=3\.99"):
        resolve(path)
