"""Figures and tables as a notebook shows them: without a network, with and without scripts."""

import base64
import functools
import io
import json
import re
from html import escape
from typing import Any

import altair
import numpy as np
import pandas as pd
import vl_convert
from PIL import Image

MAX_ROWS = 5000  # a figure's data travel inside the page
SHOWN_ROWS = 60  # a longer table is shown in part; its file holds all
PHRASE, SENTENCE = 40, 100  # characters from which a cell of a table is one; both break into lines
ROUNDING = 1e-12  # what is smaller is what rounding left of zero
PICTURE_WIDTH = 640  # of a picture, where the interactive figure fills its column


class Figure:
    """A chart with its caption, alternative text and data: interactive in the book, else a picture."""

    def __init__(self, chart: Any, name: str, *, caption: str, alt: str, data: pd.DataFrame) -> None:
        _check_name(name)
        if not (caption.strip() and alt.strip()):
            raise ValueError(f"figure {name!r} needs a caption and an alt text.")
        with altair.data_transformers.disable_max_rows():  # our own limit follows, with a clearer sentence
            text = json.dumps(chart.to_dict())
        # JSON has no NaN. What is drawn needs few digits, and a page carries them all; the data keep every one.
        content = json.loads(text, parse_constant=lambda _: None, parse_float=_short)
        rows = max([len(data), sum(map(len, content.get("datasets", {}).values()))])
        if rows > MAX_ROWS:
            raise ValueError(f"figure {name!r} shows {rows:,} rows; aggregate its data to {MAX_ROWS:,} or fewer.")
        content["description"] = alt
        self.name, self.caption, self.alt = name, caption, alt
        self.specification = json.dumps(content, ensure_ascii=False, allow_nan=False)
        self.csv = data.to_csv(index=False)

    @functools.cached_property
    def png(self) -> bytes:
        """The picture, on white."""
        content = json.loads(self.specification) | {"background": "white"}
        if content.get("width") == "container":
            content["width"] = PICTURE_WIDTH
        drawn = Image.open(io.BytesIO(vl_convert.vegalite_to_png(content, scale=2, allowed_base_urls=[])))
        small = io.BytesIO()  # 256 colours are enough and take a fifth of the space
        drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        return small.getvalue()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        # book.py finds the embedded files by their attributes, figures.js the drawing's place by its class, and
        # captions.py the number's place by its words.
        picture, alt = base64.b64encode(self.png).decode(), escape(self.alt)
        specification = self.specification.replace("<", "\\u003c")  # no text in it can end the script element
        data = _link(self.csv, "text/csv", f"{self.name}.csv", "data (CSV)")
        source = _link(self.specification, "application/json", f"{self.name}.vl.json", "specification (Vega-Lite)")
        html = f"""<figure class="memgen" id="figure-{self.name}" style="margin:1em 0">
<div class="memgen-figure">
<img src="data:image/png;base64,{picture}" data-name="{self.name}.png" alt="{alt}" style="max-width:100%">
</div>
<script type="application/json">{specification}</script>
<figcaption><strong>Figure:</strong> {escape(self.caption)} <small>({data}, {source})</small></figcaption>
</figure>"""
        return {"text/html": html, "image/png": picture, "text/plain": f"Figure: {self.caption}"}


class Table:
    """A table with its caption."""

    def __init__(self, frame: pd.DataFrame, name: str, *, caption: str) -> None:
        _check_name(name)
        if not caption.strip():
            raise ValueError(f"table {name!r} needs a caption.")
        self.frame, self.name, self.caption = frame, name, caption
        self.csv = frame.to_csv(index=False)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        shown = self.frame.head(SHOWN_ROWS).rename_axis(columns=None)
        nullable = [name for name, kind in shown.dtypes.items() if pd.api.types.is_extension_array_dtype(kind)]
        shown = shown.astype(dict.fromkeys(nullable, object)).map(_plain)
        rows = shown.to_html(index=False, border=0, justify="left", na_rep="–", float_format=_readable)
        rows = re.sub(r"<td>([^<]+)</td>", _classed, rows)
        plain = shown.to_string(index=False, na_rep="–", float_format=_readable)
        caption = self.caption
        if len(shown) < len(self.frame):
            caption += f" (The first {SHOWN_ROWS} of {len(self.frame):,} rows.)"
        data = _link(self.csv, "text/csv", f"{self.name}.csv", "data (CSV)")
        html = f"""<figure class="memgen" id="table-{self.name}" style="margin:1em 0">
<figcaption><strong>Table:</strong> {escape(caption)} <small>({data})</small></figcaption>
<div class="memgen-table" role="group" aria-label="Table {self.name}" style="overflow-x:auto" tabindex="0">{rows}</div>
</figure>"""
        return {"text/html": html, "text/plain": f"Table: {caption}\n{plain}"}


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"{name!r} cannot name a file; use letters, digits, _ and - only.")


def _link(text: str, kind: str, name: str, label: str) -> str:
    content = base64.b64encode(text.encode()).decode()
    return f'<a href="data:{kind};base64,{content}" download="{name}">{label}</a>'


def _plain(value: Any) -> Any:
    """A value as a table shows it."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return np.nan if value is pd.NA else value


def _classed(cell: re.Match[str]) -> str:
    """A cell of a table with the class that its length gives it."""
    length = len(cell[1])
    kind = "sentence" if length >= SENTENCE else "phrase" if length >= PHRASE else ""
    return f'<td class="{kind}">{cell[1]}</td>' if kind else cell[0]


def _short(number: str) -> float:
    """A number with the digits that a drawing needs: a page carries them all, and the data beside it keep every one."""
    return float(f"{float(number):.5g}")


def _readable(number: float) -> str:
    number = 0.0 if abs(number) < ROUNDING else number
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
