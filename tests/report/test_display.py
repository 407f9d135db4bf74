"""Figures and tables as they are shown: escaped, self-contained, small."""

import base64
import json
import re

import altair
import numpy as np
import pandas as pd
import pytest

from memgen.report import display
from tests.report.stage_runs import CHART, FRAME


def test_figure_is_escaped_and_needs_no_network(project):
    hostile = pd.DataFrame({"name": ["</script><script>alert(1)</script>", "<b>"], "value": [1.0, np.nan]})
    chart = altair.Chart(hostile).mark_bar().encode(x="value:Q", y="name:N")
    figure = display.Figure(chart, "hostile", caption="<i>Caption</i>", alt='"<alt>"', data=hostile)
    html = figure._repr_mimebundle_()["text/html"]
    assert "<b>" not in html
    assert "<i>" not in html
    assert html.count("<script") == html.count("</script>") == 1
    assert 'alt="&quot;&lt;alt&gt;&quot;"' in html
    specification = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    (rows,) = specification["datasets"].values()
    assert rows[0]["name"] == hostile.name[0]
    assert rows[1]["value"] is None
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    csv = re.search(r'href="data:text/csv;base64,([^"]*)" download="hostile.csv"', html)[1]
    assert base64.b64decode(csv).decode() == hostile.to_csv(index=False)


def test_what_is_drawn_has_few_digits_and_the_data_all():
    frame = pd.DataFrame({"value": [1 / 3, 123456.789, 2e-9 / 3, 7.0]})
    chart = altair.Chart(frame).mark_bar().encode(x="value:Q")
    figure = display.Figure(chart, "digits", caption="Digits.", alt="Bars.", data=frame)
    (rows,) = json.loads(figure.specification)["datasets"].values()
    assert [row["value"] for row in rows] == [0.33333, 123460.0, 6.6667e-10, 7.0]
    assert pd.read_csv(pd.io.common.StringIO(figure.csv)).equals(frame)


def test_figure_can_be_linked_to_and_names_what_it_links_to():
    figure = display.Figure(CHART, "by_layer", caption="Values.", alt="It rises.", data=FRAME)
    html = figure._repr_mimebundle_()["text/html"]
    assert 'id="figure-by_layer"' in html
    assert re.findall(r'download="([^"]*)">([^<]*)</a>', html) == [
        ("by_layer.csv", "data (CSV)"),
        ("by_layer.vl.json", "specification (Vega-Lite)"),
    ]


def test_wide_table_can_be_scrolled_with_the_keyboard():
    html = display.Table(FRAME, "values", caption="Values.")._repr_mimebundle_()["text/html"]
    assert 'id="table-values"' in html
    assert re.search(
        r'<div class="memgen-table" role="group" aria-label="[^"]+" style="overflow-x:auto" tabindex="0">', html
    )


def test_table_is_escaped_readable_and_short():
    frame = pd.DataFrame({"<b>": ["<script>"] * 100, "p": [1.23456e-5] * 100, "n": [123456.0] * 99 + [np.nan]})
    table = display.Table(frame, "long", caption="<i>")
    bundle = table._repr_mimebundle_()
    assert "<script>" not in bundle["text/html"]
    assert "<b>" not in bundle["text/html"]
    assert "1.23e-05" in bundle["text/html"]
    assert "123,456" in bundle["text/plain"]
    assert "The first 60 of 100 rows." in bundle["text/html"]
    assert len(pd.read_csv(pd.io.common.StringIO(table.csv))) == 100


def test_cells_say_what_a_reader_expects_and_long_ones_may_break():
    frame = pd.DataFrame(
        {"layer": pd.array([1, None], dtype="Int64"), "kept": [True, False], "why": ["x" * 50, "y" * 150]}
    )
    frame.columns.name = "task"
    html = display.Table(frame, "cells", caption="Cells.")._repr_mimebundle_()["text/html"]
    assert re.findall(r"<th>(.*?)</th>", html) == ["layer", "kept", "why"]
    cells = re.findall(r"<td( class=\"\w+\")?>(.*?)</td>", html)
    assert cells == [
        *[("", "1"), ("", "yes"), (' class="phrase"', "x" * 50)],
        *[("", "–"), ("", "no"), (' class="sentence"', "y" * 150)],
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alt": " "}, "needs a caption and an alt text"),
        ({"caption": ""}, "needs a caption and an alt text"),
        ({"name": "../escape"}, "cannot name a file"),
        ({"data": pd.DataFrame({"value": range(5001)})}, "shows 5,001 rows; aggregate its data to 5,000"),
    ],
)
def test_bad_figures_are_refused(given, message):
    good = {"name": "values", "caption": "Values.", "alt": "Values.", "data": FRAME}
    with pytest.raises(ValueError, match=message):
        display.Figure(CHART, **{**good, **given})


def test_chart_with_too_many_rows_is_refused():
    chart = altair.Chart(pd.DataFrame({"value": range(6000)})).mark_point().encode(x="value:Q")
    with pytest.raises(ValueError, match="shows 6,000 rows"):
        display.Figure(chart, "many", caption="Many.", alt="Many.", data=FRAME)
