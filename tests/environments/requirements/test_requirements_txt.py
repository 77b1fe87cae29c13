"""requirements.txt: what the key depends on, and which errors are raised."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.environments.requirements.requirements_txt import RequirementsFiles
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import SIX_HASH, key_of, make_library, write


def test_comments_whitespace_and_the_place_do_not_change_the_key(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", "pandas>=2,<3\nsix==1.17.0\n-c nested/limits.txt\n")
    write(tmp_path / "nested" / "limits.txt", "numpy<3\n")
    other = write(
        tmp_path / "else" / "where" / "requirements.txt",
        "# ours\n\n  pandas>=2,<3   # old\nsix==1.17.0\n--constraint=nested/limits.txt\n",
    )
    write(other.parent / "nested" / "limits.txt", "numpy<3  # the API\n")
    shutil.copy(other, one.with_name("requirements.txt"))
    assert key_of(one.with_name("requirements.txt")) == key_of(other)


@pytest.mark.parametrize("file", ["requirements.txt", "nested/base.txt", "nested/limits.txt"])
def test_a_change_in_any_of_the_files_changes_the_key(file: str, tmp_path: Path) -> None:
    write(tmp_path / "requirements.txt", "pandas<3\n-r nested/base.txt\n-c nested/limits.txt\n")
    write(tmp_path / "nested/base.txt", "six==1.17.0\n")
    write(tmp_path / "nested/limits.txt", "numpy<3\n")
    environment = VenvEnvironment.from_file(tmp_path / "requirements.txt")
    before = environment.key
    write(tmp_path / file, (tmp_path / file).read_text().replace("<3", "<2").replace("1.17", "1.16"))
    assert environment.key != before


def test_a_constraint_is_not_a_requirement(tmp_path: Path) -> None:
    write(tmp_path / "limits.txt", "six==1.17.0\n")
    wanted = write(tmp_path / "a.txt", "tabulate\n-r limits.txt\n")
    limited = write(tmp_path / "b.txt", "tabulate\n-c limits.txt\n")
    assert key_of(wanted) != key_of(limited)


def test_hashes_and_indexes_are_part_of_the_key(tmp_path: Path) -> None:
    texts = [
        "six==1.17.0",
        f"six==1.17.0 --hash={SIX_HASH}",
        f"six==1.17.0 \\\n  --hash={SIX_HASH} \\\n  --hash=sha256:{'0' * 64}",
        "six==1.17.0\n--extra-index-url https://a.example.com/simple",
        "six==1.17.0\n--only-binary :all:",
        "six==1.17.0\n--pre",
        "six==1.17.0\n--require-hashes",
        "six==1.17.0\n--trusted-host example.com",
    ]
    keys = [key_of(write(tmp_path / "requirements.txt", text)) for text in texts]
    assert len(set(keys)) == len(texts)


def test_files_that_name_each_other_are_read_once_and_are_not_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "six\n-r b.txt\n")
    write(tmp_path / "b.txt", "tabulate\n-r a.txt\n")
    assert key_of(tmp_path / "a.txt") != key_of(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six\n-r lost.txt\n", r"Could not read .*lost\.txt \(referenced by .*requirements\.txt\): No such file"),
        ("six\n-rlost.txt\n", r"Could not read .*lost\.txt"),
        ("-i https://me:hunter2@example.com/simple\nsix", r"line 1: A URL of .* contains credentials"),
        ("x @ https://h/x.whl?sig=hunter2", r"line 1: A URL of .* contains credentials"),
        ("-i https://${USER}:${TOKEN}@example.com/simple", "contains credentials"),
        ("x @ https://example.com/x-${VERSION}.whl", r"\$\{VERSION\} in .* is a variable of the worker"),
        ("-i https://me:hunter2,x@example.com/simple", "contains credentials"),
        ("-i https:/me:hunter2@example.com/simple", "contains credentials"),
        ("-i file:///opt/simple", "`file:` URL"),
        ("--pre=bee", "--pre has no value, but 'bee' follows it"),
        ("x @ https://h/x.whl#md5=0123", "'md5=0123' in .* is not one that uv checks"),
        ("x @ https://h/x.whl#egg=x&sha256=0123", "'sha256=0123' in .* is not one that uv checks"),
        ("-r https://example.com/requirements.txt", "is not a local file"),
        ("-chttps://example.com/limits.txt", "is not a local file"),
        ("# nothing\n", r"requirements\.txt has no requirements"),
        ("./lost", r"lost can't be built: it has no pyproject|lost is not a project directory, an sdist or a wheel"),
        ("x @ file:///opt/x", "URL"),
        ("file:///opt/x.whl", "URL"),
        ("x @ ./x", "has a local URL"),
        ("x@/opt/x.whl", "has a local URL"),
        ("x @ git+file:///opt/x", "URL"),
    ],
)
def test_an_invalid_line_is_reported_with_its_file_when_the_key_is_asked_for(
    text: str, message: str, tmp_path: Path
) -> None:
    environment = VenvEnvironment.from_file(write(tmp_path / "requirements.txt", text))
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        _ = environment.key
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).count(", line ") <= 1


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_are_read_in_every_encoding_that_pip_reads(encoding: str, tmp_path: Path) -> None:
    text = f"# -*- coding: {encoding} -*-\n" if encoding == "latin-1" else ""
    (tmp_path / "requirements.txt").write_bytes(f"{text}six==1.17.0  # caf\u00e9\n".encode(encoding))
    (tmp_path / "plain.txt").write_text("six==1.17.0\n")
    assert texts(tmp_path / "requirements.txt").strip() == texts(tmp_path / "plain.txt").strip() == "six==1.17.0"


def texts(path: Path) -> str:
    """The text that uv is given to read."""
    files = RequirementsFiles()
    files.read(path)
    return files.texts(path.parent)[0][2]


@pytest.mark.parametrize(
    ("text", "for_uv"),
    [
        ("-rbase.txt", "--requirement requirements-1.txt"),
        ("-cbase.txt", "--constraint requirements-1.txt"),
        ("--requirement=base.txt", "--requirement requirements-1.txt"),
        ("-r ../{here}/base.txt", "--requirement requirements-1.txt"),
        ("-r 'base.txt'", "--requirement requirements-1.txt"),
        ("-e.", ".{root}"),
        ("-e ./lib[x] ; python_version>'3'", ".{root}/lib[x] ; python_version>'3'"),
        ("--editable=lib/", ".{root}/lib"),
        ("{root}/lib", ".{root}/lib"),
        ("six \\\n  == \\\n 1.17.0", "six    ==   1.17.0"),
        ("https://example.com/a/six-1.17.0-py2.py3-none-any.whl", None),
        ("git+https://example.com/lib.git@v1#egg=lib", None),
        ("six==1.17.0 --hash=sha256:0", None),
        ("--pre\n--require-hashes\n--trusted-host x", ""),
        ("-i https://example.com/simple", "--index-url https://example.com/simple"),
        ("--no-binary :all:", None),
        (
            "-r base.txt -i https://example.com/a --pre",
            "--requirement requirements-1.txt\n--index-url https://example.com/a",
        ),
        ("--only-binary a, b", "--only-binary a\n--only-binary b"),
    ],
)
def test_uv_is_given_what_the_file_says(text: str, for_uv: str | None, tmp_path: Path) -> None:
    write(tmp_path / "base.txt", "six\n")
    filled = text.format(here=tmp_path.name, root=tmp_path) if "{" in text else text
    given = texts(write(tmp_path / "requirements.txt", filled))
    assert given.strip() == (text if for_uv is None else for_uv.replace("{root}", str(tmp_path)))


def test_a_checkout_elsewhere_has_the_same_key(tmp_path: Path) -> None:
    make_library(tmp_path / "one" / "my_lib")
    write(tmp_path / "one" / "envs" / "requirements.txt", "-e ../my_lib\n-r more.txt\n")
    write(tmp_path / "one" / "envs" / "more.txt", "six\n")
    shutil.copytree(tmp_path / "one", tmp_path / "else" / "where")
    places = (tmp_path / "one", tmp_path / "else" / "where")
    assert len({key_of(place / "envs" / "requirements.txt") for place in places}) == 1


def test_the_place_of_wheels_is_part_of_the_key(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / "wheels" / name / f"{name}.whl", name)
    texts = [f"-f wheels\n-f wheels/{name}\nsix" for name in ("old", "new")]
    assert len({key_of(write(tmp_path / "requirements.txt", text)) for text in texts}) == 2


def test_local_paths_start_from_the_environment_or_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "envs" / "requirements.txt", "-e .\n")
    environment = VenvEnvironment.from_file("envs/requirements.txt", base_dir=tmp_path)
    make_library(tmp_path)
    from_start = environment.key
    make_library(tmp_path / "envs", answer=43)
    with pytest.raises(InvalidArgumentError, match=r"names '\.', which exists relative to .* and to .*envs\."):
        _ = environment.key
    (tmp_path / "pyproject.toml").unlink()
    assert environment.key != from_start
    assert environment.key == VenvEnvironment.from_file(file).key


def test_no_line_makes_reading_slow(tmp_path: Path) -> None:
    much = 100_000
    lines = ["a" * much, f"a{' ' * much}x", f"a[{'[' * much}", "-" * much, f"a{'@' * much}", "a://" * much]
    files = [write(tmp_path / f"{number}.txt", line) for number, line in enumerate(lines)]
    code = (
        "import pathlib, sys\n"
        "from airflow_provider_sparkdeps.environments.requirements.requirements_txt import RequirementsFiles\n"
        "for path in sys.argv[1:]:\n"
        "    try: RequirementsFiles().read(pathlib.Path(path))\n"
        "    except ValueError as error: assert len(str(error)) < 1000\n"
    )
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=60)


def test_options_that_are_there_twice_are_given_once(tmp_path: Path) -> None:
    write(tmp_path / "more.txt", "--pre\n--trusted-host a\n--trusted-host b\nsix==1 --hash=sha256:0\n")
    files = RequirementsFiles()
    files.read(write(tmp_path / "requirements.txt", "--pre\n-r more.txt\nsix==1 --hash=sha256:0\n--trusted-host b\n"))
    assert files.options == [
        "--prerelease", "allow", "--allow-insecure-host", "a", "--allow-insecure-host", "b", "--require-hashes",
    ]  # fmt: skip
