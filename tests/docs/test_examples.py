"""The documentation cannot lie: every example of every page runs, and prints what the page shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import transcripts
from transcripts import Reader

from made_once import made_once

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "reference" not in page.parts)]
TUTORIAL = DOCS / "tutorial.md"
RUN = [page for page in PAGES if page != TUTORIAL and transcripts.examples(page.read_text(encoding="utf-8"))]
SET_UP = ("pip install", "./x ")
"""What readers do once for the machine; the tests run in an environment where it is done."""


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def clinic(tmp_path_factory) -> Path:
    """The tutorial's project as the how-to pages find it: one release, deployed. Made once."""
    table = transcripts.examples(TUTORIAL.read_text(encoding="utf-8"))[0].text
    commands = "kaizen init clinic --data cells.csv --target diagnosis\ncd clinic\nkaizen train\nkaizen deploy\n"

    def make(folder: Path) -> None:
        with Reader(folder, tmp_path_factory.mktemp("home")) as reader:
            reader.follow(f"```python\n{table}```\n```console\n{commands}```\n")

    return made_once(tmp_path_factory, "clinic", make)


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(tmp_path, tmp_path_factory):
    with Reader(tmp_path, tmp_path_factory.mktemp("home")) as reader:
        reader.follow(TUTORIAL.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=named)
def test_a_page_does_what_it_says(page, clinic, tmp_path, tmp_path_factory):
    text = page.read_text(encoding="utf-8")
    for program in ("curl", "openssl"):
        if f"$ {program} " in text and shutil.which(program) is None:
            pytest.skip(f"there is no {program} here")
    if page == ROOT / "README.md":  # its reader brings a table of orders
        folder = tmp_path
        rows = [f"{5 + n * 37 % 100 / 3:.2f},{('books', 'toys', 'shoes')[n % 3]},{'yes' if n % 3 == 1 else 'no'}" for n in range(300)]
        (folder / "orders.csv").write_text("\n".join(["price,category,returned", *rows, ""]), encoding="utf-8")
    else:
        folder = tmp_path / "work" / "clinic"
        shutil.copytree(clinic, folder.parent)
    with Reader(folder, tmp_path_factory.mktemp("home")) as reader:
        reader.follow(text, leave_out=SET_UP)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_the_index_names_every_page():
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#\s]+\.md)\)", index)}
    assert [named(page) for page in PAGES if page.is_relative_to(DOCS) and page != DOCS / "README.md" and page not in linked] == []


@pytest.mark.parametrize(
    ("shown", "printed", "alike"),
    [
        ("a  b\n", "a b", True), ("a ... c", "a b c", True), ("a\n...\nd", "a\nb\nc\nd", True),
        ("a", "a\nb", False), ("a b", "a c", False), ("p (1.0)", "p (1x0)", False),
    ],
)  # fmt: skip
def test_what_a_page_shows_is_compared_line_by_line_with_gaps(shown, printed, alike):
    assert transcripts.matches(shown, printed) == alike
