"""Figures of the steering chapter. Frames are tidy: `value, ci_low, ci_high, n`, and the columns that are required."""

import textwrap
from collections.abc import Mapping
from typing import Any

import altair
import pandas as pd

from memgen.figures import theme
from memgen.figures.theme import DIAMOND, ESTIMATE

SHARE = altair.Scale(domain=[0, 1])
MEASURE_NAMES = {
    "reached": "reach the target",
    "best_control": "strongest control",
    "other": "other answers",
    "wrong_way": "pushed away",
    "lost_memorized_only": "lost, memorized-only",
    "lost_inferred_only": "lost, inferred-only",
    "lost_aligned": "lost, aligned",
    "log_odds": "log-odds",
}
AT_SLIDERS = "datum.at_n === at_n && datum.at_alpha === at_alpha"
CHOSEN = DIAMOND | {"stroke": theme.INK, "strokeWidth": 2, "size": 140}  # stands on the page, light or dark
METHOD_COLORS = (*theme.CONTROLS[:4], theme.INK, "#9A7FD1", theme.CONTROLS[4])


def outcomes(frame: pd.DataFrame, study: Mapping[str, float] | None = None) -> altair.TopLevelMixin:
    """Show what inputs become under each method (`control` is missing) and its best control.

    Columns method, control, target, measure; the measures reached, stayed and other. `study` has the share (0-1) that
    the study reports for its shift, by target: diamonds.
    """
    frame = theme.require(frame, "method", "control", "target", "measure", *ESTIMATE)
    measures = ["reached", "stayed", "other"]
    frame = frame[frame.measure.isin(measures)].copy()
    opposite = frame.target.map(dict(zip(theme.TARGETS, reversed(theme.TARGETS), strict=True)))
    frame["behavior"] = frame.target.where(frame.measure == "reached", opposite).mask(frame.measure == "other", "other")
    frame["rank"] = frame.measure.map(measures.index)
    frame["title"] = "steered to " + frame.target
    frame["name"] = frame.method.map(theme.METHOD_NAMES).map(lambda name: textwrap.fill(name, 18))
    frame["shift"] = frame.control.map(theme.CONTROL_NAMES).fillna("shift")
    frame["note"] = frame.value.map("{:.0%}".format).where((frame.measure == "reached") & frame.control.isna(), "")
    is_study = (frame.method == "study") & (frame.note != "")
    frame["reported"] = frame.target.map(study or {}).astype(float).where(is_study)
    order = theme.names_of(frame, "shift")
    base = altair.Chart(frame).encode(
        y=altair.Y("name:N", title=None, sort=theme.names_of(frame, "name")).axis(labelExpr=theme.IN_LINES),
        yOffset=altair.YOffset("shift:N", sort=order),
        tooltip=theme.tooltip(frame, ["name", "shift", "target", "behavior"], form=".1%"),
    )
    bars = base.mark_bar().encode(
        x=theme.share(altair.X, "value", "share of inputs"),
        color=theme.behavior_color("behavior"),
        opacity=altair.Opacity("shift:N", sort=order, legend=None).scale(domain=order, range=[1, 0.5]),
        order="rank:Q",
    )
    reached = base.transform_filter("datum.note !== ''").encode(x=altair.value(4))
    numbers = theme.write(reached, "note", "target", align="left", fontWeight="bold")
    diamonds = base.transform_filter("isValid(datum.reported)")
    diamonds = diamonds.mark_point(**DIAMOND, size=90, color="white", yOffset=-7)
    layers = bars + numbers + diamonds.encode(x="reported:Q")
    alt = "Stacked bars for each method and target, those of its control below: what reaches, stays, or is other."
    chart = theme.facet(layers, frame, "title", height=44 * frame.method.nunique())
    brought = " and ".join(f"{row.note} to {row.target}" for row in frame[is_study].itertuples())
    message = f"The study's shift brings {brought}" + (" (diamonds: as the study reports)" if study else "")
    return theme.finish(chart, alt, labels=140, message=message if brought else "")


def sweep(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show the study's shift by N and alpha; below, what becomes of inputs at the N and alpha that sliders choose.

    Columns n_neurons, alpha, target, measure; the measures reached, other, best_control, and net, the largest of which
    sets the sliders.
    """
    frame = theme.require(frame, "n_neurons", "alpha", "target", "measure", *ESTIMATE)
    frame["title"] = "steered to " + frame.target
    sizes, alphas = sorted(set(frame.n_neurons)), sorted(set(frame.alpha))
    frame["at_n"], frame["at_alpha"] = frame.n_neurons.map(sizes.index), frame.alpha.map(alphas.index)
    reached = frame[frame.measure == "reached"].copy()
    shown = theme.tooltip(reached, ["target", "n_neurons", "alpha"], form=".1%")
    base = altair.Chart(reached).encode(
        x=altair.X("alpha:O", title="alpha", axis=altair.Axis(labelAngle=0)),
        y=altair.Y("n_neurons:O", title="neurons N", sort="descending"),
    )
    paper, cells, numbers = theme.shares_in_cells(base, {}, tooltip=shown)
    marked = base.transform_filter(AT_SLIDERS).mark_rect(filled=False, stroke=theme.CONTROLS[3], strokeWidth=3)
    grid = theme.facet(paper + cells + marked + numbers, reached, "title", height=22 * len(sizes) + 20)
    net = frame[frame.measure == "net"].groupby(["at_n", "at_alpha"]).value.mean()
    begin = net.idxmax() if net.notna().any() else (0, 0)
    chart = altair.vconcat(grid, _at_sliders(frame), spacing=24).resolve_scale(color="independent")
    chart.params = []  # add_params would hand them down, and fails on facets
    for name, label, values, at in (("at_n", "neurons N", sizes, begin[0]), ("at_alpha", "alpha", alphas, begin[1])):
        last = len(values) - 1
        bind = altair.binding_range(min=0, max=last, step=1, name=label) if last else altair.Undefined
        chart.params.append(altair.param(name=name, value=int(at), bind=bind).param)
    steps = {"at_n": [f"{size:,}" for size in sizes], "at_alpha": [f"{alpha:g}" for alpha in alphas]}
    alt = "Two heat maps of N by alpha, one for each target; below each, for one N and alpha, three bars: the share "
    alt += "that reaches the target, the strongest control, and other answers."
    return theme.finish(chart, alt, labels=110, steps=steps, pick={"at_n": "at_n", "at_alpha": "at_alpha"})


def _at_sliders(frame: pd.DataFrame) -> altair.FacetChart:
    shades = theme.BEHAVIOR_COLORS | {"other answers": theme.OTHER, "strongest control": theme.CONTROLS[1]}
    rows = frame[frame.measure.isin(["reached", "other", "best_control"])].copy()
    rows["name"] = rows.measure.map(MEASURE_NAMES)
    rows["shade"] = rows.target.where(rows.measure == "reached", rows.name)
    scale = altair.Scale(domain=list(shades), range=list(shades.values()))
    base = altair.Chart(rows).transform_filter(AT_SLIDERS)
    base = base.encode(
        x=theme.share(altair.X, "value", "share of inputs"),
        y=altair.Y("name:N", title=None, sort=list(MEASURE_NAMES.values())),
        tooltip=theme.tooltip(rows, ["name", "target", "n_neurons", "alpha"], form=".1%"),
    )
    bars = base.mark_bar().encode(color=altair.Color("shade:N", scale=scale, legend=None))
    numbers = base.mark_text(align="left", dx=4).encode(text=altair.Text("value:Q", format=".0%"))
    return theme.facet(bars + numbers, rows, "title", height=75)


def frontier(frame: pd.DataFrame, study: Mapping[str, float]) -> altair.TopLevelMixin:
    """Show what the study's shift reaches against what its strongest control reaches, a point for each N and alpha.

    Columns of :func:`memgen.steering.sweep.frontier`; `study` has the share that the study reports, by target: a line.
    """
    frame = theme.require(frame, "method", "target", "candidate", "alpha", "cost", "cost_value", "is_chosen", *ESTIMATE)
    frame = frame[(frame.method == "study") & (frame.cost == "best_control")].copy()
    frame["title"], frame["reported"] = "to " + frame.target, frame.target.map(study)
    shown = theme.tooltip(frame, ["target", "candidate", "alpha"], ["value", "cost_value"], form=".1%")
    base = altair.Chart(frame).encode(
        x=altair.X("cost_value:Q", title="strongest control reaches", scale=SHARE).axis(format="%"),
        y=altair.Y("value:Q", title="the study's shift reaches", scale=SHARE).axis(format="%"),
        color=theme.behavior_color("target", theme.TARGETS).legend(None),
        tooltip=shown,
    )
    corner = altair.Chart(frame).encode(x=altair.datum(0), y=altair.datum(0), x2=altair.datum(1), y2=altair.datum(1))
    reported = altair.Chart(frame).encode(y="mean(reported):Q")
    layers = corner.mark_rule(strokeDash=[3, 3]) + base.mark_circle(size=40, opacity=1)
    if study:
        layers += reported.mark_rule(strokeWidth=2)
        label: dict[str, Any] = {"dy": -7, "text": "the study reports"}  # off the diagonal
        high, low = (reported.transform_filter(f"datum.reported {where} 0.5") for where in (">", "<="))
        layers += high.mark_text(align="left", **label).encode(x=altair.datum(0))
        layers += low.mark_text(align="right", **label).encode(x=altair.datum(1))
    layers += base.transform_filter("datum.is_chosen").mark_point(**CHOSEN)
    alt = "For each target a point for each N and alpha: what the study's shift reaches, against its strongest control;"
    alt += " a diagonal where the two are equal, a diamond for the chosen one, a line at what the study reports."
    best = ", ".join(
        f"{row.value:.0%} against {row.cost_value:.0%} to {row.target}" for row in frame[frame.is_chosen].itertuples()
    )
    message = f"The study's shift against its controls; chosen: {best}"
    return theme.finish(theme.facet(layers, frame, "title", height=250), alt, message=message)


def collateral(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show what every trial reaches against the accuracy that it costs, the chosen ones marked.

    Columns of :func:`memgen.steering.sweep.frontier`, of costs in accuracy alone. A click on a method in the legend
    leaves that method alone.
    """
    marks = ["is_chosen", "is_frontier"]
    frame = theme.require(frame, "method", "target", "candidate", "dose", "cost", "cost_value", *marks, *ESTIMATE)
    frame["name"] = frame.method.map(theme.METHOD_NAMES)
    frame["title"] = "to " + frame.target + ", " + frame.cost.map(MEASURE_NAMES).str.removeprefix("lost, ") + " inputs"
    names = theme.names_of(frame, "name")
    picked = altair.selection_point(fields=["name"], bind="legend")
    base = altair.Chart(frame).encode(
        x=altair.X("cost_value:Q", title="accuracy lost").axis(format="%"),
        y=altair.Y("value:Q", title="reach the target", scale=SHARE).axis(format="%"),
        color=altair.Color("name:N", title=None).scale(domain=names, range=list(METHOD_COLORS[: len(names)])),
        tooltip=theme.tooltip(frame, ["name", "target", "candidate", "dose"], ["value", "cost_value"], form=".1%"),
    )
    shown = {
        strength: altair.when(picked).then(altair.value(strength)).otherwise(altair.value(0.03))
        for strength in (0.9, 1)
    }
    lines = base.transform_filter("datum.is_frontier").mark_line(interpolate="step-after", strokeWidth=2)
    chosen = base.transform_filter("datum.is_chosen").mark_point(**CHOSEN)
    layers = lines.encode(opacity=shown[0.9]).add_params(picked) + chosen.encode(opacity=shown[1])
    alt = "For each target the share of inputs that reaches it against the accuracy lost, a line for each method along "
    alt += "its best trials, diamonds for the chosen ones."
    message = "Target against collateral: up and to the left is better"
    return theme.finish(theme.facet(layers, frame, "title", height=250), alt, legend_columns=2, message=message)


def dose(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show measures of one unit by dose, a panel for each measure and candidate."""
    frame = theme.require(frame, "dose", "target", "candidate", "measure", *ESTIMATE)
    frame["title"] = frame.measure.map(MEASURE_NAMES) + ", " + frame.candidate
    unit, form = ("nats", ".2f") if set(frame.measure) == {"log_odds"} else ("share of inputs", ".1%")
    shown = theme.tooltip(frame, ["title", "target", "dose"], form=form)
    color = theme.behavior_color("target", theme.TARGETS)
    base = altair.Chart(frame).encode(x=altair.X("dose:Q", title="dose"), color=color)
    band = base.mark_area(opacity=0.2).encode(y=altair.Y("ci_low:Q", title=unit), y2="ci_high:Q")
    line = base.mark_line(point=True).encode(y=altair.Y("value:Q", title=unit), tooltip=shown)
    alt = f"Lines over the dose, one for each target, in panels: {'; '.join(theme.names_of(frame, 'title'))}."
    return theme.finish(theme.facet(band + line, frame, "title"), alt)
