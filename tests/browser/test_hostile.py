"""Text from data never becomes part of a page, nor runs in it."""

from pathlib import Path

import altair
import pandas as pd
from playwright.sync_api import Browser

from book.build.chapters import write_vega_bundle
from memgen.display import Figure, Table

from .conftest import served, visiting

HOSTILE = [
    "<script>window.struck = 1</script>",
    "<img src=x onerror='window.struck = 1'>",
    "</script><script>window.struck = 1</script>",
    "\"><svg onload='window.struck = 1'>",
    "javascript:window.struck=1",
]


def test_hostile_prompts_stay_text(browser: Browser, tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": HOSTILE, "value": range(1, 6), HOSTILE[0]: HOSTILE})
    chart = (
        altair.Chart(frame, title=HOSTILE[1], description=HOSTILE[3])
        .mark_bar()
        .encode(x=altair.X("value:Q", title=HOSTILE[1]), y="prompt:N", tooltip=["prompt:N", "value:Q"])
    )
    parts = [
        Figure(chart, "figure", caption=HOSTILE[2], data=frame),
        Table(frame, "table", caption=HOSTILE[1]),
    ]
    body = "\n".join(part._repr_mimebundle_()["text/html"] for part in parts)
    write_vega_bundle(tmp_path / "vega.js")
    page_text = (
        f'<!doctype html><meta charset="utf-8"><title>t</title><body>{body}<script src="vega.js"></script></body>'
    )
    (tmp_path / "page.html").write_text(page_text, encoding="utf-8")
    (tmp_path / "favicon.ico").touch()
    with served(tmp_path) as base, visiting(browser, base) as visit:
        page = visit.open("page.html")
        bars = page.locator("svg.marks .mark-rect path, svg.marks [aria-roledescription=bar]")
        assert bars.count() >= len(HOSTILE)
        for bar in bars.all()[-len(HOSTILE) :]:
            bar.hover()
        tooltip = page.locator("#vg-tooltip-element")
        tooltip.wait_for(state="attached")
        assert page.evaluate("() => window.struck") is None
        assert page.locator("td", has_text=HOSTILE[0]).count() > 0, "the text is shown as it is"
        assert page.locator("img[src=x], svg[onload]").count() == 0
        assert visit.problems == []
