"""The look that all figures share: colours, sizes, and the width of the page.

The colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart, the yellow darkened. Text and
lines have a grey that is readable on light and on dark pages; the background is transparent.
"""

import itertools
import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import altair
import pandas as pd

Axis = TypeVar("Axis", altair.X, altair.Y)
MEMORIZATION = "#0072B2"
GENERALIZATION = "#E69F00"
OTHER = "#777777"
CONTROLS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#A08C00")  # what is not a behaviour, in this order
INK = "#757575"  # text and lines; the book's script gives them the colour of the page's own text
BEHAVIOR_COLORS = {"memorization": MEMORIZATION, "generalization": GENERALIZATION, "other": OTHER}
TARGETS = ("memorization", "generalization")
KIND_COLORS = {
    "memorized_only": MEMORIZATION,
    "inferred_only": GENERALIZATION,
    "aligned": CONTROLS[0],
    "conflict": CONTROLS[1],
}
ESTIMATE = ("value", "ci_low", "ci_high", "n")  # columns of :class:`memgen.intervals.Estimate`
#: The mark of what the study reports, and of what was chosen, where marks have the colour of a behaviour.
DIAMOND: dict[str, Any] = {"shape": "diamond", "filled": True, "opacity": 1, "stroke": "black"}

# How figures and tables call what the columns of the results name.
KIND_NAMES = {kind: kind.replace("_", "-") for kind in KIND_COLORS}
POPULATION_NAMES = {
    "conflicts": "all conflicts",
    "flip_pairs": "flip pairs",
    "seen_conflicts": "all conflicts, seen groups",  # of the groups that a shift was computed from
    "seen_flip_pairs": "flip pairs, seen groups",
    "open": "open conflicts",  # of the grades at which training showed both answers most evenly
}
METHOD_NAMES = {
    "study": "study's shift",
    "study_shuffled": "study's shift, shuffled labels",
    "mean_difference": "difference in means",
    "fitted_resid": "fitted, residual stream",
    "fitted_mlp": "fitted, MLP",
    "fitted_mlp_tenth": "fitted, a tenth of the MLP",
    "fitted_random_tenth": "fitted, a random tenth of the MLP",
}
CONTROL_NAMES = {
    "random_neurons": "random neurons",
    "random_direction": "random direction",
    "least_correlated": "least correlated neurons",
    "best": "strongest control",
    "uniform": "random baseline",
    "whole_state": "the whole state",
}
RANKING_NAMES = {
    "r": "|r|",
    "nmd": "|NMD|",
    "attribution": "|attribution|",
    "summed_attribution": "attribution",
    "patching": "patching",
}

SITE_NAMES = {
    "resid_post": "residual stream",
    "resid_post_normed": "residual stream, after the next norm",
    "mlp.hook_post": "MLP neurons",
}
MATCH_NAMES = {
    "own": "of the same model",
    "index": "of another seed,\nsame index",
    "matched": "of another seed,\nmatched",
    "random": "random neurons,\nsame norm",
}

HEIGHT = 260
TITLE_WIDTH = 62  # characters
IN_LINES = "split(datum.label, '\\n')"  # of labels with line breaks
FACETS_WIDTH = 560  # of all facets in a row, where the page does not decide

TEXT = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": TEXT | {"domainColor": INK, "tickColor": INK, "gridColor": INK, "gridOpacity": 0.2, "labelLimit": 180},
    "axisQuantitative": {"tickCount": 5, "labelOverlap": True, "labelSeparation": 6},
    "legend": TEXT | {"labelLimit": 260, "titleLimit": 280, "orient": "top", "gradientLength": 140, "symbolOpacity": 1},
    "title": {"color": INK, "anchor": "start", "fontSize": 13, "fontWeight": "bold", "offset": 8},
    "header": TEXT | {"labelFontWeight": "bold"},
    "line": {"strokeWidth": 2},
    "rule": {"color": INK},
    "text": {"color": INK, "fontSize": 12},
}


def require(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return a copy of `frame`; a missing column is a ValueError with its name."""
    if missing := [column for column in columns if column not in frame]:
        has = ", ".join(map(str, frame.columns))
        raise ValueError(f"the figure needs the columns {', '.join(missing)}; the frame has {has}.")
    return frame.copy()


def names_of(frame: pd.DataFrame, column: str) -> list[Any]:
    """Return the values of a column, each once, in the order of the data."""
    return list(frame[column].dropna().unique())


def finish(
    chart: altair.TopLevelMixin,
    alt: str,
    labels: int = 60,
    legend_columns: int = 3,
    message: str = "",
    **about: Mapping[str, Any],
) -> altair.TopLevelMixin:
    """Give a chart the theme, its text alternative and, where it is one view, the width of its column.

    Parameters
    ----------
    alt
        The chart in words, for readers who cannot see it.
    labels
        The room, in pixels, that a figure of several views has for the labels of its vertical axis.
    message
        What the figure shows, in a line above it.
    about
        What the book's script does with the controls of a figure: `steps`, the values that a slider over places in a
        list shows (the parameter's name: the list); `pick`, the parameters that a click on a mark sets (their names:
        the fields of the mark's row).
    """
    if isinstance(chart, altair.Chart | altair.LayerChart):
        height = HEIGHT if chart.height is altair.Undefined else chart.height
        chart = chart.properties(width="container", height=height)
    if message:
        chart = chart.properties(title=textwrap.wrap(message, TITLE_WIDTH))
    config = CONFIG | {"legend": CONFIG["legend"] | {"columns": legend_columns}}
    return chart.properties(config=config, usermeta={"labels": labels, **about}, description=alt)


def facet(
    chart: altair.Chart | altair.LayerChart, frame: pd.DataFrame, column: str, columns: int = 2, height: int = 200
) -> altair.FacetChart:
    """Repeat a chart for each value of `column`, in the order of `frame`, its data."""
    label = f"{json.dumps(SITE_NAMES)}[datum.label] || datum.label" if column == "site" else IN_LINES
    header = altair.Header(title=None, labelExpr=label)
    panel = altair.Facet(f"{column}:N", header=header, sort=names_of(frame, column))
    return chart.properties(width=FACETS_WIDTH // columns, height=height).facet(facet=panel, columns=columns)


def behavior_color(column: str, behaviors: Sequence[str] = tuple(BEHAVIOR_COLORS)) -> altair.Color:
    """Colour by behaviour: memorization blue, generalization orange, other grey."""
    scale = altair.Scale(domain=list(behaviors), range=[BEHAVIOR_COLORS[name] for name in behaviors])
    return altair.Color(f"{column}:N", scale=scale, title=None)


def color(frame: pd.DataFrame, column: str) -> altair.Color:
    """Colour by any column: behaviours keep their colours, other values take the remaining ones in turn."""
    names, free = names_of(frame, column), itertools.cycle(CONTROLS)
    shades = [BEHAVIOR_COLORS.get(name) or next(free) for name in names]
    return altair.Color(f"{column}:N", scale=altair.Scale(domain=names, range=shades), title=None)


def layer_axis() -> altair.X:
    """Return the horizontal axis of layers."""
    return altair.X("layer:O", title="layer", axis=altair.Axis(labelAngle=0, labelOverlap=True))


def share(axis: type[Axis], column: str, title: str) -> Axis:
    """Return an axis from 0 to 1, in percent."""
    return axis(f"{column}:Q", title=title, scale=altair.Scale(domain=[0, 1]), axis=altair.Axis(format="%"))


def shares_in_cells(base: altair.Chart, font: Mapping[str, Any], **encoding: Any) -> tuple[Any, ...]:
    """The layers of a heat map: white paper, cells in the colour of `target` as dark as `value`, and the percentage."""
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    opacity = altair.Opacity("value:Q", legend=None).scale(domain=[0, 1], range=[0, 1])
    cells = base.mark_rect().encode(behavior_color("target", TARGETS).legend(None), opacity, **encoding)
    is_dark = (altair.datum.value > 0.9) & (altair.datum.target == "memorization")
    ink = altair.when(is_dark).then(altair.value("white")).otherwise(altair.value("black"))
    return paper, cells, base.mark_text(**font).encode(text=altair.Text("value:Q", format=".0%"), color=ink, **encoding)


def write(chart: altair.Chart, text: str, behavior: str, **mark: Any) -> altair.LayerChart:
    """Write a column on marks of the behaviours in another; an edge of their colour serves text that is longer."""
    is_light = altair.datum[behavior] == "generalization"
    ink = altair.when(is_light).then(altair.value("black")).otherwise(altair.value("white"))
    edge = altair.when(is_light).then(altair.value(GENERALIZATION))
    edge = edge.when(altair.datum[behavior] == "memorization").then(altair.value(MEMORIZATION))
    words = chart.encode(text=f"{text}:N")
    below = words.mark_text(**mark, strokeWidth=4, strokeJoin="round").encode(
        color=ink, stroke=edge.otherwise(altair.value(OTHER))
    )
    return below + words.mark_text(**mark).encode(color=ink)


def tooltip(
    frame: pd.DataFrame, labels: Sequence[str], numbers: Sequence[str] = ("value",), form: str = ".3f"
) -> list[altair.Tooltip]:
    """Return what a pointer over a mark shows: labels, numbers in the format `form`, and interval and n if known.

    A `frame` with intervals gets a column `interval` with their text, since Vega would show a missing bound as 0.
    """
    shown = [*map(altair.Tooltip, labels), *(altair.Tooltip(f"{name}:Q", format=form) for name in numbers)]
    if {"ci_low", "ci_high"} <= set(frame.columns) and frame.ci_low.notna().any():
        bounds = zip(frame.ci_low, frame.ci_high, strict=True)
        frame["interval"] = ["none" if pd.isna(low) else f"{low:{form}} to {high:{form}}" for low, high in bounds]
        shown.append(altair.Tooltip("interval:N", title="95 % interval"))
    return shown + ([altair.Tooltip("n:Q", format=",")] if "n" in frame else [])
