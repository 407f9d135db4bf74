"""The whole book as one PDF: a Chromium prints each page, and the prints are joined in the order of ``_toc.yml``."""

import io
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, NameObject, NullObject

import memgen
from memgen.config import require, root

HOW_TO_GET_IT = "no Chromium was found: install it (Debian, Ubuntu: apt-get install chromium), or name it in CHROMIUM"
WIDTH = 850  # pixels of a page's text, for which figures are drawn; SCALE makes them as wide as A4 within its margins
SCALE = 0.8
FLAGS = ["--no-sandbox", "--disable-gpu"]
MARGINS: Any = dict.fromkeys(("top", "right", "bottom", "left"), "15mm")
# Each figure with a specification has an `svg`, or `canvas`, beside it; models in the page are loaded.
DRAWN = """() => !document.querySelector("#memgen-try:not([data-ready])") &&
    [...document.querySelectorAll("figure.memgen script[type='application/json']")].every(
        (source) => source.parentElement.querySelector("svg.marks, canvas.marks"))"""
TITLE = """() => [...document.querySelector("article h1").childNodes]
    .filter((part) => part.className !== "headerlink").map((part) => part.textContent).join("")"""


def chromium() -> str | None:
    """The browser's program, if there is one."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def print_book(browser: Browser, html: Path, toc: dict[str, Any], target: Path) -> int:
    """Print the pages of a built book into one PDF, with a bookmark for each; return the number of its sheets."""
    pages = [(part["caption"], entry) for part in toc["parts"] for entry in part["chapters"]]
    writer, parts, starts, links = PdfWriter(), dict[str | None, Any]({None: None}), dict[str, int](), []
    page = browser.new_page(viewport={"width": WIDTH, "height": 1200}, color_scheme="light")
    page.emulate_media(media="print")  # before it is opened: figures are drawn for the room that they find
    for part, entry in [(None, {"file": toc["root"]}), *pages]:
        address, start = (html / f"{entry['file']}.html").resolve().as_uri(), len(writer.pages)
        page.goto(address)
        page.wait_for_function(DRAWN)
        page.add_style_tag(content=f"html {{ counter-reset: page {start}; }}")
        printed = PdfReader(io.BytesIO(page.pdf(format="A4", scale=SCALE, margin=MARGINS)))
        for sheet in printed.pages:
            links += [(link, printed, start) for link in writer.add_page(sheet).get("/Annots", ())]
        if part not in parts:
            parts[part] = writer.add_outline_item(title=part or "", page_number=start)
        title = entry.get("title") or page.evaluate(TITLE)
        writer.add_outline_item(title=title, page_number=start, parent=parts[part])
        starts[address] = start
    page.close()
    for link, printed, start in links:
        point_within(link.get_object(), printed, start, starts, writer)
    writer.add_metadata({"/Title": f"memgen {memgen.__version__}"})
    writer.compress_identical_objects()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    writer.write(unfinished)
    unfinished.replace(target)
    return len(writer.pages)


def point_within(link: Any, printed: PdfReader, start: int, starts: dict[str, int], writer: PdfWriter) -> None:
    """Let a link to a place on its own page, or to another page of the book, lead to a sheet of the whole."""
    place = printed.named_destinations.get(link.get("/Dest"))
    address = link.get("/A", {}).get("/URI", "").partition("#")[0]
    if address.startswith("file:"):
        del link["/A"]  # a place on this machine; the data of figures are not in the PDF
    if place is not None:
        number, top = start + (printed.get_destination_page_number(place) or 0), place["/Top"]
    elif address in starts:
        number, top = starts[address], NullObject()
    else:
        return
    sheet = writer.pages[number].indirect_reference
    link[NameObject("/Dest")] = ArrayObject([sheet, NameObject("/XYZ"), NullObject(), top, NullObject()])


def make_pdf() -> tuple[Path, int]:
    """Print ``_build/html`` into ``dist/``; return where the PDF is, and the number of its sheets."""
    program, target = chromium(), root() / f"dist/memgen-book-{memgen.__version__}.pdf"
    require(program is not None, HOW_TO_GET_IT)
    toc = yaml.safe_load((root() / "_toc.yml").read_text(encoding="utf-8"))
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=FLAGS) as browser:
        return target, print_book(browser, root() / "_build/html", toc, target)
