"""The look that all figures share: colours, sizes, and the width of the page.

The colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart. Text and lines have a
grey that is readable on light and on dark pages; the background is transparent.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

MEMORIZATION = "#0072B2"
GENERALIZATION = "#E69F00"
OTHER = "#777777"
CONTROLS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")  # what is not a behaviour, in this order
INK = "#757575"  # text and lines; the book's script gives them the colour of the page's own text
BEHAVIOR_COLORS = {"memorization": MEMORIZATION, "generalization": GENERALIZATION, "other": OTHER}
TARGETS = ("memorization", "generalization")
HEIGHT = 260
FACETS_WIDTH = 560  # of all facets in a row, where the page does not decide

TEXT = {
    "labelColor": INK,
    "titleColor": INK,
    "labelFontSize": 12,
    "titleFontSize": 12,
    "titleFontWeight": "normal",
}
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": TEXT | {"domainColor": INK, "tickColor": INK, "gridColor": INK, "gridOpacity": 0.2, "labelLimit": 180},
    "axisQuantitative": {"tickCount": 5},
    "legend": TEXT | {"labelLimit": 220, "titleLimit": 280, "orient": "top", "gradientLength": 140, "symbolOpacity": 1},
    "header": TEXT | {"labelFontWeight": "bold"},
    "line": {"strokeWidth": 2},
    "rule": {"color": INK},
    "text": {"color": INK, "fontSize": 12},
}


def require(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return a copy of `frame`; a missing column is a ValueError that names it."""
    missing = [column for column in columns if column not in frame]
    if missing:
        has = ", ".join(map(str, frame.columns))
        raise ValueError(f"the figure needs the columns {', '.join(missing)}; the frame has {has}.")
    return frame.copy()


def names_of(frame: pd.DataFrame, column: str) -> list[Any]:
    """Return the values of a column, each once, in the order of the data."""
    return list(frame[column].dropna().unique())


def finish(chart: alt.TopLevelMixin, labels: int = 60, legend_columns: int = 3) -> alt.TopLevelMixin:
    """Give a chart the theme and, where it is one view, the width of its column.

    `labels` is the room, in pixels, that a facetted figure keeps for the labels of its vertical axis.
    """
    if isinstance(chart, alt.Chart | alt.LayerChart):
        height = HEIGHT if chart.height is alt.Undefined else chart.height
        chart = chart.properties(width="container", height=height)
    config = CONFIG | {"legend": CONFIG["legend"] | {"columns": legend_columns}}
    return chart.properties(config=config, usermeta={"labels": labels})


def facet(
    chart: alt.Chart | alt.LayerChart, frame: pd.DataFrame, column: str, columns: int = 2, height: int = 200
) -> alt.FacetChart:
    """Repeat a chart for each value of `column`, in the order of `frame`, its data."""
    panel = alt.Facet(f"{column}:N", header=alt.Header(title=None), sort=names_of(frame, column))
    return chart.properties(width=FACETS_WIDTH // columns, height=height).facet(facet=panel, columns=columns)


def behavior_color(column: str, behaviors: Sequence[str] = tuple(BEHAVIOR_COLORS)) -> alt.Color:
    """Colour by behaviour: memorization blue, generalization orange, other grey."""
    scale = alt.Scale(domain=list(behaviors), range=[BEHAVIOR_COLORS[name] for name in behaviors])
    return alt.Color(f"{column}:N", scale=scale, title=None)


def color(frame: pd.DataFrame, column: str) -> alt.Color:
    """Colour by any column: behaviours keep their colours, other values take the remaining ones in turn."""
    names = names_of(frame, column)
    free = iter(CONTROLS * (1 + len(names) // len(CONTROLS)))
    shades = [BEHAVIOR_COLORS.get(name) or next(free) for name in names]
    return alt.Color(f"{column}:N", scale=alt.Scale(domain=names, range=shades), title=None)


def layer_axis() -> alt.X:
    """Return the horizontal axis of layers."""
    return alt.X("layer:O", title="layer", axis=alt.Axis(labelAngle=0))


def share(axis: type[alt.X] | type[alt.Y], column: str, title: str) -> alt.X | alt.Y:
    """Return an axis from 0 to 1."""
    return axis(f"{column}:Q", title=title, scale=alt.Scale(domain=[0, 1]))


def tooltip(labels: Sequence[str], numbers: Sequence[str], form: str = ".3f") -> list[alt.Tooltip]:
    """Return what a pointer over a mark shows: labels as they are, numbers in the format `form`."""
    return [*map(alt.Tooltip, labels), *(alt.Tooltip(f"{name}:Q", format=form) for name in numbers)]
