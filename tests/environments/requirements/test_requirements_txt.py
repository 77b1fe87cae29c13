"""requirements.txt: what the key depends on, and which errors are raised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_provider_sparkdeps.environments import VenvEnvironment
from airflow_provider_sparkdeps.exceptions import InvalidArgumentError

from ...support.projects import SIX_HASH, key_of, write

OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_order_whitespace_comments_and_includes_do_not_change_the_key(tmp_path: Path) -> None:
    one = write(tmp_path / "one.txt", "pandas>=2,<3\nsix==1.17.0\n-c limits.txt\n")
    write(tmp_path / "limits.txt", "numpy<3\n")
    other = write(
        tmp_path / "else" / "where" / "requirements.txt",
        "# ours\n-r nested/base.txt\n\n  Pandas < 3, >= 2   # old\n--constraint=nested/limits.txt\n",
    )
    write(other.parent / "nested" / "base.txt", "six == \\\n    1.17.0\n")
    write(other.parent / "nested" / "limits.txt", "numpy <3  # the API\n")
    assert key_of(one) == key_of(other)


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
    ]
    keys = [key_of(write(tmp_path / "requirements.txt", text)) for text in texts]
    assert len(set(keys)) == len(texts)
    turned = f"six==1.17.0 --hash=sha256:{'0' * 64} --hash={SIX_HASH}"
    assert key_of(write(tmp_path / "requirements.txt", turned)) == keys[2]


def test_files_that_name_each_other_are_read_once(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "six\n-r b.txt\n")
    write(tmp_path / "b.txt", "tabulate\n-r a.txt\n")
    assert key_of(tmp_path / "a.txt") == key_of(tmp_path / "b.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six\n-r lost.txt\n", r"Could not read .*lost\.txt \(referenced by .*requirements\.txt\): No such file"),
        ("six\n\npandas => 2\n", r"requirements\.txt, line 3: 'pandas => 2' is not a requirement"),
        ("six\n--trusted-host x\n", r"line 2: Option --trusted-host is not supported"),
        ("-i https://me:hunter2@example.com/simple\nsix", "line 1: The URL of --index-url contains credentials"),
        ("-i https://${USER}:${TOKEN}@example.com/simple", r"variables such as \$\{TOKEN\} are not supported"),
        ("-f /wheels\nsix", "--find-links /wheels is not a URL"),
        ("-r https://example.com/requirements.txt", "is not a local file"),
        ("# nothing\n", r"requirements\.txt has no requirements"),
        ("./lost", r"lost can't be built: it has no pyproject|lost is not a project directory, an sdist or a wheel"),
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
