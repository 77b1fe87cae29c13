"""The pages of the documentation are complete, and their links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_sparkdeps
from airflow_provider_sparkdeps import get_provider_info

from ..support.documents import PAGES, ROOT, anchors, links, prose

ALL = [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/NOTES.md"))]
DOCS = ROOT / "docs"
PACKAGE = Path(airflow_provider_sparkdeps.__file__).parent
ANY = "\N{HORIZONTAL ELLIPSIS}"


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target), link


def test_readme_takes_ten_minutes() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 200


def test_readme_leads_to_every_page_and_every_example_dag() -> None:
    reached, queue = set[Path](), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            queue += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
    assert {*ALL, *(ROOT / "example_dags").glob("example_*.py")} <= reached


def test_every_field_of_the_connection_and_every_option_is_described() -> None:
    info = get_provider_info()
    text = "".join(page.read_text() for page in PAGES)
    for field in info["connection-types"][0]["conn-fields"]:
        assert f"`{field}`" in prose(DOCS / "connection.md")
    for option in info["config"]["sparkdeps"]["options"]:
        assert option in text


def test_every_public_name_is_listed() -> None:
    listed = re.findall(r"`(\w+)`", prose(DOCS / "architecture.md").partition("## Public API")[2])
    public = {name for name in airflow_provider_sparkdeps.__all__ if name not in ("__version__", "get_provider_info")}
    assert public <= set(listed)


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", DOCS / "architecture.md"], ids=lambda page: page.name)
def test_files_that_pages_for_developers_name_exist(page: Path) -> None:
    for name in re.findall(r"`([\w./]+/(?:\w+\.\w+)?)`", page.read_text()):
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name


def constants() -> Iterator[str]:
    """Yield the strings of the package, with an ellipsis for what is filled in, and the lines of its scripts."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else ANY for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"\{[^{}]*\}", ANY, node.value)
    for path in PACKAGE.rglob("*.sh"):
        text = re.sub(r'"\s*\\\n\s*"', " ", path.read_text())
        yield from re.sub(r"\$\(.*?\)|\$\{?\w+\}?", ANY, text).splitlines()


def messages() -> list[str]:
    """The first column of the tables of messages, without its Markdown."""
    rows = re.findall(r"^\| `+ ?(.+?) ?`+ \|", prose(DOCS / "troubleshooting.md"), re.MULTILINE)
    return [row for row in rows if row]


SAID = list(constants())


@pytest.mark.parametrize("message", messages())
def test_a_message_of_the_troubleshooting_page_is_in_the_package(message: str) -> None:
    pattern = ".*".join(map(re.escape, message.split("...")))
    assert any(re.search(pattern, each, re.IGNORECASE) for each in SAID), "write what the package says now"
