"""The built book: every page is there, every figure is in it, and nothing asks for the network."""

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml

from .conftest import Project
from .made import PROFILE_STAGES, RUN_STAGES

LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}
HARMLESS_LINKS = {"canonical", "author", "license", "next", "prev", "index", "search"}


class Page(HTMLParser):
    """The parts of a page that the tests ask for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.loaded, self.images, self.links, self.ids, self.tags = path, [], [], [], set(), set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids.add(values.get("id", ""))
        if tag == "img":
            self.images.append(values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADING and LOADING[tag] in values and values.get("rel") not in HARMLESS_LINKS:
            self.loaded.append(values[LOADING[tag]])


@pytest.fixture(scope="module")
def html(project: Project) -> Path:
    return project.root / "_build/html"


@pytest.fixture(scope="module")
def pages(html: Path) -> list[Page]:
    return [Page(path) for path in sorted(html.rglob("*.html")) if "_static" not in path.parts]


def named_in_toc(entry: object) -> list[str]:
    if isinstance(entry, dict):
        names = [entry[key] for key in ("root", "file") if key in entry]
        return names + [name for value in entry.values() for name in named_in_toc(value)]
    return [name for value in entry for name in named_in_toc(value)] if isinstance(entry, list) else []


def test_every_page_of_the_table_of_contents_was_built(project: Project, html: Path) -> None:
    names = named_in_toc(yaml.safe_load(project.read("_toc.yml")))
    assert {f"book/chapters/{stage}-{task}" for stage in RUN_STAGES for task in ("inference", "addition")} <= set(names)
    for name in names:
        assert (html / f"{name}.html").is_file(), name


def test_nothing_is_loaded_from_elsewhere(html: Path, pages: list[Page]) -> None:
    for page in pages:
        for address in page.loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.path} loads {address}"
    for style in html.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(\s*['\"]?|@import\s+['\"])(https?:)?//", text), style


def test_a_policy_in_every_page_forbids_requests(pages: list[Page]) -> None:
    for page in pages:
        before, script, _ = page.text.partition("<script")
        if not script:  # the first page of the folder leads on to the book's
            assert not page.loaded, page.path
            continue
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', before)  # it holds for what follows it
        assert policy, page.path
        assert policy[1].startswith("default-src ")
        assert not re.search(r"http|\*|//", policy[1])


def test_what_pages_load_is_there(pages: list[Page]) -> None:
    for page in pages:
        for address in page.loaded:
            if not address.startswith("data:"):
                target = page.path.parent / re.split(r"[?#]", address)[0]
                assert target.exists(), f"{page.path} loads {address}"


def test_links_within_the_book_lead_somewhere(pages: list[Page]) -> None:
    by_path = {page.path.resolve(): page for page in pages}
    for page in pages:
        for link in page.links:
            if re.match(r"\w+:|//", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.path.parent / name.partition("?")[0]).resolve() if name else page.path.resolve()
            assert target.exists(), f"{page.path} links to {link}"
            if anchor and target in by_path:
                assert anchor in by_path[target].ids, f"{page.path} links to {link}"


def test_every_chapter_has_figures_with_words_for_those_who_cannot_see_them(html: Path) -> None:
    for name in [*(f"{stage}-{task}" for stage in RUN_STAGES for task in ("inference", "addition")), *PROFILE_STAGES]:
        page = Page(html / f"book/chapters/{name}.html")
        assert page.text.count('<figure class="memgen"') >= 1, name
        assert page.text.count('<script type="application/json">{') >= 1, name
        assert any("vega.js" in address for address in page.loaded)
        assert "How this page was made" in page.text
        assert "Traceback" not in page.text


def test_every_picture_has_an_alternative_text(pages: list[Page]) -> None:
    for page in pages:
        for image in page.images:
            assert image.get("alt", "").strip() or "logo" in image.get("class", ""), (
                f"{page.path}: {image.get('src', '')[:80]}"
            )


def test_formulas_are_written_as_mathml(html: Path) -> None:
    page = Page(html / "book/glossary.html")
    assert "math" in page.tags
    assert not [address for address in page.loaded if "mathjax" in address.lower()]


def test_a_notebook_for_download_has_its_words_and_not_the_drawings(html: Path) -> None:
    page = Page(html / "book/chapters/localization-inference.html")
    assert [link for link in page.links if link.endswith("_sources/book/chapters/localization-inference.ipynb")]
    notebook = nbformat.read(html / "_sources/book/chapters/localization-inference.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    words = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "Figure: " in words
    assert "Table: " in words
    assert not [output for output in outputs if "memgen-figure" in str(output)]
