"""Figures and tables as they are shown: escaped, self-contained, small."""

import base64
import io
import json
import re

import altair
import numpy as np
import pandas as pd
import pytest

from memgen.display import Figure, Table

FRAME = pd.DataFrame({"layer": [0, 1], "value": [0.2, 0.9]})
CHART = altair.Chart(FRAME, description="The second bar is higher.").mark_bar().encode(x="layer:O", y="value:Q")


def html_of(shown):
    return shown._repr_mimebundle_()["text/html"].replace("\xa0", " ")


def cells_of(frame):
    return re.findall(r"<td>(.*?)</td>", html_of(Table(frame, "cells", caption="Cells.")))


def test_figure_is_escaped_and_needs_no_network():
    hostile = pd.DataFrame({"name": ["</script><script>alert(1)</script>", "<b>"], "value": [1.0, np.nan]})
    chart = altair.Chart(hostile, description='"<alt>"').mark_bar().encode(x="value:Q", y="name:N")
    figure = Figure(chart, "hostile", caption="<i>Caption</i>", data=hostile)
    html = html_of(figure)
    assert "<b>" not in html
    assert "<i>" not in html
    assert html.count("<script") == html.count("</script>") == 1
    assert 'alt="&quot;&lt;alt&gt;&quot;"' in html
    specification = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)[1])
    assert specification["description"] == figure.alt == '"<alt>"'
    (rows,) = specification["datasets"].values()
    assert rows[0]["name"] == hostile.name[0]
    assert rows[1]["value"] is None
    assert not re.findall(r'(?:src|href)="(?!data:)', html)
    csv = re.search(r'href="data:text/csv;base64,([^"]*)" download="hostile.csv"', html)[1]
    assert pd.read_csv(io.BytesIO(base64.b64decode(csv))).equals(hostile)


def test_a_download_computes_nothing_in_a_spreadsheet_and_its_numbers_stay():
    cells = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\tx", 'a,"=1', "12 = ?", "a\n=1", "-12", "", "'"]
    safe = ["'=1+1", "'@SUM(A1)", "'+cmd|' /C calc'!A0", "'-2+3", "'\tx", 'a,"=1', "12 = ?", "a\n=1", "-12", "", "'"]
    frame = pd.DataFrame({"name": cells, "value": [-0.5] * len(cells), "also": cells})
    table = Table(frame, "cells", caption="Cells.")
    link = re.search(r'href="data:text/csv;base64,([^"]*)"', table._repr_mimebundle_()["text/html"])[1]
    read = pd.read_csv(io.BytesIO(base64.b64decode(link)), dtype={"name": str, "also": str}, keep_default_na=False)
    assert read.equals(frame.assign(name=safe, also=safe))
    assert "'=" not in table.csv


def test_drawing_has_few_digits_and_the_data_all():
    frame = pd.DataFrame({"value": [1 / 3, 123456.789, 2e-9 / 3, 7.0]})
    chart = altair.Chart(frame, description="Bars.").mark_bar().encode(x="value:Q")
    figure = Figure(chart, "digits", caption="Digits.", data=frame)
    (rows,) = json.loads(figure.specification)["datasets"].values()
    assert [row["value"] for row in rows] == [0.33333, 123460.0, 6.6667e-10, 7.0]
    assert pd.read_csv(io.StringIO(figure.csv)).equals(frame)


def test_figure_can_be_linked_to_and_names_its_downloads():
    html = html_of(Figure(CHART, "by_layer", caption="Values.", data=FRAME))
    assert 'id="figure-by_layer"' in html
    assert re.findall(r'download="([^"]*)">([^<]*)</a>', html) == [
        ("by_layer.csv", "data (CSV)"),
        ("by_layer.vl.json", "specification (Vega-Lite)"),
    ]


def test_picture_is_a_png_on_white():
    picture = Figure(CHART, "picture", caption="Values.", data=FRAME).png
    assert picture.startswith(b"\x89PNG")


def test_wide_table_can_be_scrolled_with_the_keyboard():
    html = html_of(Table(FRAME, "values", caption="Values."))
    assert 'id="table-values"' in html
    assert re.search(r'<div class="memgen-table" role="group" aria-label="[^"]+" [^>]*tabindex="0">', html)


def test_table_is_escaped_readable_and_short():
    frame = pd.DataFrame({"<b>": ["<script>"] * 100, "p": [1.23456e-5] * 100, "size": [123456.0] * 99 + [np.nan]})
    table = Table(frame, "long", caption="<i>")
    bundle = table._repr_mimebundle_()
    assert not re.search("<script|<b>|<i>", bundle["text/html"])
    assert "&lt; 0.001" in bundle["text/html"]
    assert "123,456" in bundle["text/plain"]
    assert "20 of 100 rows" in bundle["text/html"]
    assert pd.read_csv(io.StringIO(table.csv)).equals(frame)


def test_large_numbers_have_separators_and_a_minus_sign():
    assert cells_of(pd.DataFrame({"size": [999.7, -1500.0, 999.2]})) == ["1,000", "−1,500", "999"]


def test_number_and_its_interval_share_a_cell():
    rows = [
        (0.97412, 0.951, 1.0, "0.974 [0.951, 1.000]"),
        (0.0714, 0.000137, 0.471, "0.071 [0.000, 0.471]"),
        (-1e-17, -0.0001, 0.2, "0.000 [0.000, 0.200]"),
        (12.345, -3.2, 101.04, "12.3 [−3.2, 101.0]"),
        (1234.5, 1000, 2000, "1,234 [1,000, 2,000]"),
        (0.5, np.nan, np.nan, "0.500"),
        (np.nan, np.nan, np.nan, "–"),
    ]
    frame = pd.DataFrame(rows, columns=["value", "ci_low", "ci_high", "text"]).assign(n=7)
    assert cells_of(frame) == [cell for *_, text in rows for cell in (text, text, "7")]
    table = Table(frame, "cells", caption="Cells.")
    assert re.findall(r"<th>(.*?)</th>", html_of(table)) == ["value", "text", "n"]
    assert pd.read_csv(io.StringIO(table.csv)).equals(frame)  # the file keeps the columns apart


def test_a_reader_sees_the_columns_and_rows_that_matter_in_words_and_percent():
    frame = pd.DataFrame(
        {
            "method": ["study", "fitted_mlp", "study_shuffled"],
            "value": [0.1234, 0.5, 0.3],
            "ci_low": [0.1, np.nan, 0.2],
            "ci_high": [0.2, np.nan, 0.4],
            "net": [-0.02, 0.4, 0.0],
            "net_low": [-0.1, 0.3, 0.0],
            "net_high": [0.05, 0.5, 0.0],
            "lost": [0.25, 0.0, 0.1],
        }
    )
    columns = {"method": "shift", "value": "reached, %", "net": "net, points", "lost": "lost, points"}
    table = Table(frame, "few", caption="Few.", columns=columns, rows=frame.method != "study_shuffled")
    html = html_of(table)
    assert re.findall(r"<th>(.*?)</th>", html) == list(columns.values())
    assert re.findall(r"<td>(.*?)</td>", html) == [
        *("study's shift", "12.3 [10.0, 20.0]", "−2.0 [−10.0, 5.0]", "25.0"),
        *("fitted, MLP", "50.0", "40.0 [30.0, 50.0]", "0.0"),
    ]
    assert "2 of 3 rows" in html
    assert pd.read_csv(io.StringIO(table.csv)).equals(frame)


def test_numbers_of_several_units_stand_in_one_column_each_in_its_own():
    frame = pd.DataFrame({"unit": ["share 0-1", "difference of shares", "AUROC 0-1"], "value": [0.25, -0.1, 0.75]})
    frame = frame.assign(ci_low=frame.value - 0.05, ci_high=frame.value + 0.05)
    html = html_of(Table(frame, "units", caption="Units.", columns={"value": "measured"}))
    assert re.findall(r"<td>(.*?)</td>", html) == [
        "25.0 % [20.0, 30.0]",
        "−10.0 points [−15.0, −5.0]",
        "0.750 [0.700, 0.800]",
    ]


def test_missing_values_and_truth_values_are_words():
    frame = pd.DataFrame({"layer": pd.array([1, None], dtype="Int64"), "met": [True, False], "control": ["x", None]})
    assert cells_of(frame) == ["1", "yes", "x", "–", "no", "–"]
    assert cells_of(pd.DataFrame({"met": pd.array([True, None], dtype="boolean")})) == ["yes", "–"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chart": altair.Chart(FRAME).mark_bar()}, "has no alternative text"),
        ({"chart": altair.Chart(FRAME, description=" ").mark_bar()}, "has no alternative text"),
        ({"caption": ""}, "needs a caption"),
        ({"name": "../escape"}, "cannot name a file"),
        ({"data": pd.DataFrame({"value": range(5001)})}, "shows 5,001 rows; aggregate its data to 5,000"),
        ({"chart": altair.Chart(pd.DataFrame({"a": range(6000)}), description="x").mark_point()}, "shows 6,000 rows"),
    ],
)
def test_bad_figures_are_refused(given, message):
    arguments = {"chart": CHART, "name": "values", "caption": "Values.", "data": FRAME} | given
    with pytest.raises(ValueError, match=message):
        Figure(**arguments)
