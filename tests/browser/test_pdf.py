"""The book as one PDF: three pages stand for all, as each is printed by itself."""

from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser
from pypdf import PdfReader

from book.build import pdf
from memgen.config import InputError

CHAPTER = "book/chapters/data-inference"
TOC = {
    "root": "book/index",
    "parts": [{"caption": "A part", "chapters": [{"file": CHAPTER}, {"file": "book/summary", "title": "A title"}]}],
}


def heading(html: Path, name: str) -> str:
    page = BeautifulSoup((html / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    return page.find("h1").get_text().removesuffix("#")


def letters(text: str) -> str:
    """Ligatures and spaces are the font's."""
    return "".join(text.replace("ﬁ", "fi").replace("ﬂ", "fl").split())


def leads_to(read: PdfReader, sheets: range) -> set[int | None]:
    """The sheets to which links on some others lead."""
    links = [link.get_object() for i in sheets for link in read.pages[i].get("/Annots", ())]
    return {read.get_page_number(link["/Dest"][0].get_object()) for link in links if "/Dest" in link}


def test_the_book_is_one_pdf_with_bookmarks_and_links(browser: Browser, html: Path, tmp_path: Path) -> None:
    n_sheets = pdf.print_book(browser, html, TOC, tmp_path / "dist/book.pdf")
    (path,) = (tmp_path / "dist").iterdir()
    assert path.stat().st_size < 1_500_000, "so that the whole book stays below 10 MB"
    read = PdfReader(path)
    assert len(read.pages) == n_sheets > 3

    first, part, (chapter, named) = read.outline
    titles = [heading(html, "book/index"), "A part", heading(html, CHAPTER), "A title"]
    assert [item.title for item in (first, part, chapter, named)] == titles
    starts = [read.get_destination_page_number(item) for item in (first, part, chapter, named)]
    assert starts[0] == 0 < starts[1] == starts[2] < starts[3]
    texts = [letters(sheet.extract_text()) for sheet in read.pages]
    for number, name in zip((starts[0], *starts[2:]), ("book/index", CHAPTER, "book/summary"), strict=True):
        assert texts[number].startswith(f"{number + 1}{letters(heading(html, name))}")
    assert all(text.startswith(str(number)) for number, text in enumerate(texts, 1))

    assert not any(len(sheet.images) for sheet in read.pages), "figures are vectors"
    assert starts[3] in leads_to(read, range(starts[2])), "the first page leads to the last"
    assert leads_to(read, range(*starts[2:])) & set(range(*starts[2:])), "those of the chapter to its own figures"
    links = [link.get_object() for sheet in read.pages for link in sheet.get("/Annots", ())]
    addresses = [link.get("/A", {}).get("/URI", "") for link in links]
    assert {address.partition(":")[0] for address in addresses} <= {"", "https"}, "none to this machine"


def test_without_a_chromium_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(InputError, match="CHROMIUM"):
        pdf.make_pdf()
