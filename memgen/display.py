"""Figures and tables as a notebook shows them: without a network, with and without scripts."""

import base64
import csv
import functools
import io
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import altair
import numpy as np
import pandas as pd
import vl_convert
from PIL import Image

from memgen.figures import theme

MAX_ROWS = 5000  # a figure's data travel inside the page
SHOWN_ROWS = 20  # a longer table is shown in part; its file holds all rows
IN_HUNDREDTHS = ("%", "points")  # the end of a header: shares, or differences of shares
#: The units of numbers that are shown in hundredths, and what follows these.
SHARES = {"share 0-1": " %", "accuracy 0-1": " %", "difference of shares": " points"}
OF_UNIT = ("value", "reported", "detectable")  # the columns that `unit` is about
#: What cells name, in the words of the figures; in some columns also others.
WORDS = theme.KIND_NAMES | theme.POPULATION_NAMES | theme.CONTROL_NAMES
WORDS_OF = {
    "method": theme.METHOD_NAMES | {"none": "unsteered"},
    "ranking": theme.RANKING_NAMES,
    "match": {name: words.replace("\n", " ") for name, words in theme.MATCH_NAMES.items()},
}
SMALLEST = 0.001  # of what is smaller, only that is shown
PICTURE_WIDTH = 640  # pixels, where the interactive figure fills its column


class Figure:
    """A chart with its caption and the data that it shows, at most 5,000 rows; scripts draw it, else it is a picture.

    The chart's `description` is the alternative text: what a reader who cannot see the figure should know.
    """

    def __init__(self, chart: Any, name: str, *, caption: str, data: pd.DataFrame) -> None:
        _check(name, caption)
        alt = getattr(chart, "description", altair.Undefined)
        if not (isinstance(alt, str) and alt.strip()):
            raise ValueError(f"figure {name!r} has no alternative text: set the chart's description.")
        with altair.data_transformers.disable_max_rows():  # our own limit follows, with a clearer sentence
            # JSON has no NaN. A drawing needs few digits, and a page carries them all; the data keep every one.
            content = json.loads(json.dumps(chart.to_dict()), parse_constant=lambda _: None, parse_float=_rounded)
        rows = max(len(data), sum(map(len, content.get("datasets", {}).values())))
        if rows > MAX_ROWS:
            raise ValueError(f"figure {name!r} shows {rows:,} rows; aggregate its data to {MAX_ROWS:,} or fewer.")
        self.name, self.caption, self.alt = name, caption, alt
        self.specification = json.dumps(content, ensure_ascii=False, allow_nan=False)
        self.csv = csv_text(data)

    @functools.cached_property
    def png(self) -> bytes:
        """The picture, on white."""
        content = json.loads(self.specification) | {"background": "white"}
        if content.get("width") == "container":
            content["width"] = PICTURE_WIDTH
        drawn = Image.open(io.BytesIO(vl_convert.vegalite_to_png(content, scale=2, allowed_base_urls=[])))
        small = io.BytesIO()  # 256 colours suffice and take a fifth of the space
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        return small.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        picture = base64.b64encode(self.png).decode()
        specification = self.specification.replace("<", "\\u003c")  # no text in it can end the script element
        data = _link(without_formulas(self.csv), "text/csv", f"{self.name}.csv", "data (CSV)")
        source = _link(self.specification, "application/json", f"{self.name}.vl.json", "specification (Vega-Lite)")
        html = f"""<figure class="memgen" id="figure-{self.name}" style="margin:1em 0">
<div class="memgen-figure">
<img src="data:image/png;base64,{picture}" data-name="{self.name}.png" alt="{escape(self.alt)}" style="max-width:100%">
</div>
<script type="application/json">{specification}</script>
<figcaption><strong>Figure:</strong> {escape(self.caption)} <small>({data}, {source})</small></figcaption>
</figure>"""
        return {"text/html": html, "image/png": picture, "text/plain": f"Figure: {self.caption}"}


class Table:
    """A table with its caption: what a reader needs of it on the page, every row and column in its file.

    A number and its interval share a cell: `value` with `ci_low` and `ci_high`, any other with `<name>_low` and
    `<name>_high`. `columns` are those to show, with their headers; all by default, under their names. Where the header
    ends in `%` or `points`, or where a column `unit` says so, numbers from 0 to 1 are shown in hundredths. `rows` is a
    mask of the rows to show; all by default. At most 20 are shown.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        name: str,
        *,
        caption: str,
        columns: Mapping[str, str] | None = None,
        rows: Any = None,
    ) -> None:
        _check(name, caption)
        self.frame, self.name, self.caption = frame, name, caption
        bounds = {bound for column in frame for bound in _bounds(column)}
        self.columns = columns or {column: column.replace("_", " ") for column in frame if column not in bounds}
        self.rows = slice(None) if rows is None else rows
        self.csv = csv_text(frame)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        shown = _as_text(self.frame[self.rows].head(SHOWN_ROWS), self.columns)
        caption = self.caption
        if len(shown) < len(self.frame):
            caption += f" ({len(shown)} of {len(self.frame):,} rows; the data have all.)"
        rows = shown.to_html(index=False, border=0, justify="left").replace("|", "|<wbr>")  # answers that count alike
        data = _link(without_formulas(self.csv), "text/csv", f"{self.name}.csv", "data (CSV)")
        html = f"""<figure class="memgen" id="table-{self.name}" style="margin:1em 0">
<figcaption><strong>Table:</strong> {escape(caption)} <small>({data})</small></figcaption>
<div class="memgen-table" role="group" aria-label="Table {self.name}" style="overflow-x:auto" tabindex="0">{rows}</div>
</figure>"""
        return {"text/html": html, "text/plain": f"Table: {caption}\n{shown.to_string(index=False)}"}


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV, its text in quotation marks: ``"0011"`` is no number (:func:`memgen.published.read_table`)."""
    return frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)


def without_formulas(text: str) -> str:
    """A CSV of :func:`csv_text` for people: text that a spreadsheet would compute (``=1+1``) begins with ``'``.

    Numbers, negative ones too, stay; what programs read, beside the results, is as it was measured.
    """
    return re.sub(r'(^|,)"(?=[=+\-@\t\r])(?![-+][\d.]+")', r"""\1"'""", text, flags=re.MULTILINE)


def _check(name: str, caption: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{name!r} cannot name a file; use letters, digits, _ and - only.")
    if not caption.strip():
        raise ValueError(f"{name!r} needs a caption.")


def _rounded(digits: str) -> float:
    return float(f"{float(digits):.5g}")


def _link(text: str, kind: str, name: str, label: str) -> str:
    content = base64.b64encode(text.encode()).decode()
    return f'<a href="data:{kind};base64,{content}" download="{name}">{label}</a>'


def _bounds(column: str) -> tuple[str, str]:
    """The columns that hold the interval of a column."""
    return ("ci_low", "ci_high") if column == "value" else (f"{column}_low", f"{column}_high")


def _as_text(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Every cell as a table shows it; a number and its interval in one."""
    text = {}
    for column, header in columns.items():
        known = (100 if header.endswith(IN_HUNDREDTHS) else 1, "")
        units = [known] * len(frame)
        if column in OF_UNIT and "unit" in frame:
            units = [(100, SHARES[unit]) if unit in SHARES else known for unit in frame["unit"]]
        if set(_bounds(column)) <= set(frame):
            cells = frame[[column, *_bounds(column)]].astype(float).to_numpy()
            text[header] = [_with_interval(cell, *unit) for cell, unit in zip(cells, units, strict=True)]
        else:
            cells = frame[column].astype(object).replace(WORDS | WORDS_OF.get(column, {}))
            text[header] = [_readable(cell, *unit) for cell, unit in zip(cells, units, strict=True)]
    return pd.DataFrame(text, columns=list(columns.values()))


def _with_interval(numbers: np.ndarray, scale: int, end: str) -> str:
    """A number and its bounds [3] with the same number of decimals, such as 0.071 [0.000, 0.471]."""
    value, low, high = scale * numbers
    largest = np.nanmax(np.abs([value, low, high, 0]))
    if 0 < largest < SMALLEST:
        return _readable(value)
    form = "z.1f" if scale > 1 else "z.3f" if largest < 10 else "z.1f" if largest < 1000 else "z,.0f"
    interval = f" [{low:{form}},\u00a0{high:{form}}]" if np.isfinite([low, high]).all() else ""
    return f"{value:{form}}{end}{interval}".replace("-", "\u2212") if np.isfinite(value) else "–"


def _readable(value: Any, scale: int = 1, end: str = "") -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "–"
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if scale > 1 and pd.api.types.is_number(value):
        return f"{scale * value:z.1f}{end}".replace("-", "\u2212")
    if pd.api.types.is_float(value):
        if 0 < abs(value) < SMALLEST:
            return f"< {SMALLEST}" if value > 0 else f"> \u2212{SMALLEST}"
        return f"{value:{',.0f' if abs(value) >= 999.5 else '.3g'}}".replace("-", "\u2212")
    if pd.api.types.is_integer(value):
        return f"{value:,}".replace("-", "\u2212")
    return str(value)
