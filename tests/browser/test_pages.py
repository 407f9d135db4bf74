"""Every page as a reader meets it: in light and dark, on a desk and on a phone, with the network cut off."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser

from tests.book.test_html import named_in_toc

from .conftest import Visit, visiting

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(f"{name}.html" for name in named_in_toc(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))),
    "genindex.html",
    "search.html",
]
WIDTHS = {"desk": 1280, "phone": 375}
SCHEMES = ("light", "dark")

# The figures whose drawing has no mark that can be seen: neither a shape with a size nor a letter.
WITHOUT_MARKS = """() => [...document.querySelectorAll("figure.memgen")].filter((figure) => {
    if (!figure.querySelector("script[type='application/json']")) return false;
    const marks = [...figure.querySelectorAll("svg.marks [role='graphics-symbol'] path, svg.marks .mark-rect path, "
        + "svg.marks .mark-line path, svg.marks .mark-symbol path, svg.marks .mark-rule line")];
    return !marks.some((mark) => { const box = mark.getBoundingClientRect(); return box.width + box.height > 0; });
}).map((figure) => figure.querySelector("figcaption").textContent)"""
TOO_WIDE = """() => [document.documentElement.scrollWidth, window.innerWidth]"""
# axe-core takes a time that grows with the square of a page. So of what repeats (rows, words of code, entries of the
# reference) the first stand for all, and of a drawing, which is named as a whole, no mark is read. Colours are the same
# on a phone, and all else is the same in dark.
REPEATED = (
    "svg.marks > *",
    "tbody tr:nth-child(n+5)",
    "pre span:nth-of-type(n+30)",
    "dl.py dl.py",
    "section > dl.py:nth-of-type(n+4)",
    ".bd-toc-nav li li",
    ".genindextable li:nth-child(n+4)",
)
PRUNE = f"""() => document.querySelectorAll({json.dumps(", ".join(REPEATED))}).forEach((element) => element.remove())"""
COLOURS = ["color-contrast", "link-in-text-block"]
AXE_OPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("desk", "light"): {},
    ("desk", "dark"): {"runOnly": COLOURS},
    ("phone", "light"): {"rules": {rule: {"enabled": False} for rule in COLOURS}},
}
AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def change_colours(visit: Visit, scheme: Any) -> None:
    """Show the page as on a system that is light or dark."""
    visit.page.emulate_media(color_scheme=scheme)
    visit.page.wait_for_function(f"() => document.documentElement.dataset.theme === '{scheme}'")


def serious_findings(visit: Visit, width: str, scheme: str) -> list[str]:
    """What axe-core finds on the page as it is now, in sentences."""
    if (width, scheme) not in AXE_OPTIONS:
        return []
    options = {"resultTypes": ["violations"], "preload": False, **AXE_OPTIONS[width, scheme]}
    context = {"exclude": [["svg.marks > *"]]}  # where a figure was drawn anew meanwhile
    found = visit.page.evaluate(f"() => axe.run({json.dumps(context)}, {json.dumps(options)})")
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:120]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_all_it_has_and_shuts_nobody_out(browser: Browser, base: str, name: str, width: str) -> None:
    with visiting(browser, base, WIDTHS[width], color_scheme="light") as visit:
        page = visit.open(name)
        for scheme in SCHEMES:
            change_colours(visit, scheme)
            assert page.evaluate(WITHOUT_MARKS) == [], scheme
            shown, room = page.evaluate(TOO_WIDE)
            assert shown <= room, f"{name} is {shown} pixels wide on a screen of {room} ({scheme})"
        page.evaluate(PRUNE)
        page.evaluate(AXE)
        for scheme in SCHEMES:
            change_colours(visit, scheme)
            assert serious_findings(visit, width, scheme) == [], scheme
        assert visit.problems == []
