"""The look that all figures share: colours, sizes, and the width of the page.

The colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart. Text and lines have a
grey that is readable on light and on dark pages; the background is transparent.
"""

from collections.abc import Mapping, Sequence
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
    "title": {"color": INK},
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


def finish(
    chart: alt.TopLevelMixin, labels: int = 60, legend_columns: int = 3, **about: Mapping[str, Any]
) -> alt.TopLevelMixin:
    """Give a chart the theme and, where it is one view, the width of its column.

    Parameters
    ----------
    labels
        The room, in pixels, that a figure of several views keeps for the labels of its vertical axis.
    about
        What the book's script does with the controls of a figure: `steps`, what a slider over places in a list shows in
        their stead (the parameter's name: the list); `pick`, which parameters a click on a mark sets (their names: the
        fields of the mark's row).
    """
    if isinstance(chart, alt.Chart | alt.LayerChart):
        height = HEIGHT if chart.height is alt.Undefined else chart.height
        chart = chart.properties(width="container", height=height)
    config = CONFIG | {"legend": CONFIG["legend"] | {"columns": legend_columns}}
    return chart.properties(config=config, usermeta={"labels": labels, **about})


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


def tooltip(
    labels: Sequence[str], numbers: Sequence[str], form: str = ".3f", of: pd.DataFrame | None = None
) -> list[alt.Tooltip]:
    """Return what a pointer over a mark shows: labels as they are, numbers in the format `form`, n if `of` has it."""
    shown = [*map(alt.Tooltip, labels), *(alt.Tooltip(f"{name}:Q", format=form) for name in numbers)]
    return shown + ([alt.Tooltip("n:Q", format=",")] if of is not None and "n" in of else [])


def with_interval(frame: pd.DataFrame, share: str, n: str) -> tuple[alt.Chart, list[alt.Tooltip]]:
    """Begin a chart of shares of `n` inputs that tells their intervals: the chart, and what to add to its tooltip.

    Wilson's 95 % interval, as if inputs were independent, is computed where the chart is drawn. A frame without the
    column `n` adds nothing.
    """
    chart = alt.Chart(frame)
    if n not in frame:
        return chart, []
    p, size, z = f"datum['{share}']", f"datum['{n}']", 1.959964
    middle, spread = f"{p} + {z**2 / 2} / {size}", f"{z} * sqrt({p} * (1 - {p}) / {size} + {z**2 / 4} / pow({size}, 2))"
    whole = f"(1 + {z**2} / {size})"
    low, high = (f"format(({middle} {sign} {spread}) / {whole}, '.1%')" for sign in "-+")
    told = [alt.Tooltip("interval:N", title="95 % (Wilson)"), alt.Tooltip(f"{n}:Q", title="n", format=",")]
    return chart.transform_calculate(interval=f"{low} + ' to ' + {high}"), told


def stack(views: Sequence[alt.FacetChart | alt.LayerChart], controls: Sequence[alt.Parameter]) -> alt.VConcatChart:
    """Put views below one another, with controls that all of them follow."""
    chart = alt.vconcat(*views, spacing=24).resolve_scale(color="independent")
    chart.params = [control.param for control in controls]  # add_params would hand them down, and fails on facets
    return chart


def slider(name: str, label: str, last: int, value: int = 0) -> alt.Parameter:
    """Return a parameter over the places 0 to `last` of a list, with a slider where there is a choice."""
    bind = alt.binding_range(min=0, max=last, step=1, name=label) if last else alt.Undefined
    return alt.param(name=name, value=value, bind=bind)


def choice(name: str, label: str, options: Sequence[str], value: str) -> alt.Parameter:
    """Return a parameter over a few names, with a list to choose from where there is a choice."""
    bind = alt.binding_select(options=list(options), name=label) if len(options) > 1 else alt.Undefined
    return alt.param(name=name, value=value, bind=bind)
