"""What a reader does with the book: search, move a slider, take the data, go through a page by keyboard alone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from .conftest import Visit, visiting

STEERING = ("book/chapters/steering-inference.html", "book/chapters/steering-addition.html")
DRAWING = """() => [...document.querySelectorAll("svg.marks")].map((drawing) => drawing.innerHTML).join()"""

FITTED = """() => [...document.querySelectorAll("svg.marks")].every((drawing) => {
    const room = drawing.closest(".memgen-figure").clientWidth, width = Number(drawing.getAttribute("width"));
    return 0.75 * room < width && width < 1.1 * room;
})"""
DRAWINGS = """() => Math.max(...[...document.querySelectorAll(".memgen-figure")].map(
    (figure) => figure.querySelectorAll("svg.marks").length))"""

# Marks what `Tab` has to reach: all that can be used and is shown. Of the buttons of one radio group, one is enough.
COUNT = """() => {
    const usable = "a[href], button, input, select, textarea, summary, [tabindex]";
    const shown = (element) => element.checkVisibility({visibilityProperty: true, opacityProperty: false})
        && !element.disabled && element.tabIndex >= 0 && !element.closest("[inert], dialog:not([open])")
        && element.getClientRects().length > 0;
    return [...document.querySelectorAll(usable)].filter(shown).map((element, i) => {
        element.dataset.toReach = i;
        return `${i}: ${element.outerHTML.slice(0, 100)}`;
    });
}"""
FOCUSED = """() => document.activeElement?.dataset?.toReach ?? null"""


@pytest.mark.parametrize("served", [True, False], ids=["served", "files"])
def test_search_finds_a_word_and_shows_what_stands_around_it(
    browser: Browser, base: str, html: Path, served: bool
) -> None:
    with visiting(browser, base if served else f"{html.as_uri()}/") as visit:
        page = visit.open("search.html?q=memorization")
        found = page.locator("#search-results .search > li", has=page.locator("p.context")).first
        found.wait_for()
        assert "memor" in found.locator("p.context").inner_text().lower()
        found.locator("a").click()
        page.wait_for_load_state()
        assert "memorization" in page.locator("main").inner_text().lower()
        assert visit.problems == []


@pytest.mark.parametrize("name", ["book/index.html", "book/chapters/steering-addition.html", "book/references.html"])
def test_every_icon_is_drawn(visit: Visit, name: str) -> None:
    page = visit.open(name)
    page.wait_for_function("() => document.querySelectorAll('svg.svg-inline--fa').length > 5")
    empty = """() => [...document.querySelectorAll("svg.svg-inline--fa")].map((icon) => icon.outerHTML)
        .filter((text) => text.includes("fa-question") || !/<path[^>]* d="[^"]/.test(text))"""
    assert page.evaluate(empty) == []
    assert page.locator("i[class*='fa-']").count() == 0, "each became a drawing"
    assert visit.problems == []


@pytest.mark.parametrize("name", STEERING)
def test_a_slider_moves_its_chart(visit: Visit, name: str) -> None:
    page = visit.open(name)
    slider = page.locator("input[type=range]").first
    assert slider.count() > 0, f"{name} has no slider"
    before = page.evaluate(DRAWING)
    slider.focus()
    moved = "Home" if slider.input_value() == slider.get_attribute("max") else "End"
    slider.press(moved)
    page.wait_for_function(f"(before) => ({DRAWING})() !== before", arg=before)
    assert visit.problems == []


def test_figures_are_drawn_anew_for_another_width_and_keep_their_controls(visit: Visit) -> None:
    """As when a phone is turned; a figure that is only scaled has letters that nobody can read."""
    page = visit.open(STEERING[0])
    slider = page.locator("input[type=range]").first
    slider.press("End")
    chosen = slider.input_value()
    for width in (375, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(FITTED)
    assert page.locator("input[type=range]").first.input_value() == chosen
    assert page.evaluate(DRAWINGS) == 1, "one drawing a figure"
    assert visit.problems == []


@pytest.mark.parametrize("name", [*STEERING, "book/chapters/synthesis.html"])
def test_data_of_figures_and_tables_download(visit: Visit, name: str) -> None:
    page = visit.open(name)
    links = page.locator("a[download]")
    assert links.count() > 0
    for link in links.all():
        answer = page.request.get(link.evaluate("(link) => link.href"))
        assert answer.ok and answer.body(), link.get_attribute("href")
    for link in links.all()[:3]:  # a browser asks back when a page starts very many
        with page.expect_download() as started:
            link.click()
        assert started.value.path().stat().st_size > 0
        assert started.value.suggested_filename == link.get_attribute("download")
    assert visit.problems == []


@pytest.mark.parametrize("name", ["book/index.html", "book/chapters/steering-addition.html", "book/reproduce.html"])
def test_the_keyboard_alone_reaches_everything_and_is_never_trapped(visit: Visit, name: str) -> None:
    page = visit.open(name)
    to_reach = page.evaluate(COUNT)
    reached: set[str] = set()
    for _ in range(2 * len(to_reach) + 20):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is not None and len(reached) == len(to_reach) and focused in reached:
            break
        reached |= {focused} - {None}
    missed = [element for element in to_reach if element.partition(":")[0] not in reached]
    assert missed == [], name


def test_every_address_within_the_book_answers(browser: Browser, base: str) -> None:
    """Links as the browser resolves them, scripts' ones among them; anchors must be on the page that they name."""
    with visiting(browser, base) as visit:
        page, known, links = visit.open("book/index.html"), dict[str, set[str]](), set[str]()
        waiting = [f"{base}book/index.html"]
        while waiting:
            address = waiting.pop()
            answer = page.request.get(address)
            assert answer.ok, address
            if not address.endswith(".html"):
                known[address] = set()
                continue
            found = page.evaluate(
                """([text, address]) => {
                    const page = new DOMParser().parseFromString(text, "text/html");
                    const resolved = (link) => new URL(link.getAttribute("href"), address).href;
                    return [[...page.querySelectorAll("[id]")].map((element) => element.id),
                        [...page.querySelectorAll("a[href]")].map(resolved)];
                }""",
                [answer.text(), address],
            )
            known[address], inner = set(found[0]), {link for link in found[1] if link.startswith(base)}
            links |= inner
            waiting += sorted({link.partition("#")[0].partition("?")[0] for link in inner} - {*known, *waiting})
        assert len(known) > 20
        for link in links:
            address, _, anchor = link.partition("#")
            assert not anchor or anchor in known[address.partition("?")[0]], link
