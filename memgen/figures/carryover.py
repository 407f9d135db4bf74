"""Figures of the chapter on what carries over."""

import textwrap

import altair as alt
import pandas as pd

from memgen.figures import theme


def measures(frame: pd.DataFrame, color: str, title: str = "share of inputs") -> alt.TopLevelMixin:
    """Show shares with their intervals, one row a measure: columns task, measure, value, low, high and `color`.

    There is a panel for each task; `color` names the column whose values are told apart by colour.
    """
    frame = theme.require(frame, "task", "measure", "value", "low", "high", color)
    frame["row"] = frame.measure.map(lambda name: textwrap.fill(str(name), 26))
    base = alt.Chart(frame).encode(
        y=alt.Y("row:N", title=None, sort=theme.names_of(frame, "row")).axis(labelExpr="split(datum.label, '\\n')"),
        yOffset=alt.YOffset(f"{color}:N", sort=theme.names_of(frame, color)),
        color=theme.color(frame, color),
        tooltip=theme.tooltip(["task", "measure", color], ["value", "low", "high"], of=frame),
    )
    dots = base.mark_circle(size=50, opacity=1).encode(x=theme.share(alt.X, "value", title))
    lines = base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q")
    step = max(30, 9 * (1 + frame[color].nunique()))  # a label has up to two lines
    height = step * frame.row.nunique()
    columns = min(2, frame.task.nunique())
    return theme.finish(theme.facet(lines + dots, frame, "task", columns=columns, height=height), labels=180)


def distribution(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show how best correlations are distributed: columns task, site, kind, correlation (a bin's middle), share."""
    frame = theme.require(frame, "task", "site", "kind", "correlation", "share")
    frame["panel"] = frame.task + ", " + frame.site
    chart = (
        alt.Chart(frame)
        .mark_line(interpolate="step")
        .encode(
            x=alt.X("correlation:Q", title="best correlation, in size", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("share:Q", title="share of neurons"),
            color=theme.color(frame, "kind"),
            tooltip=theme.tooltip(["task", "site", "kind"], ["correlation", "share"]),
        )
    )
    return theme.finish(theme.facet(chart, frame, "panel", height=140))


def matrix(frame: pd.DataFrame, measure: str = "share") -> alt.TopLevelMixin:
    """Show what carries from each part to each other: columns panel, source, destination, value, control (0-1).

    The control is written below the value.
    """
    frame = theme.require(frame, "panel", "source", "destination", "value", "control")
    frame["note"] = "control " + (100 * frame.control).round().astype("Int64").astype(str) + "%"
    names = theme.names_of(frame, "source")
    numbers = [name for name in ("value", "low", "high", "control") if name in frame]
    base = alt.Chart(frame).encode(
        x=alt.X("destination:N", title="applied to", sort=names, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("source:N", title="fitted on", sort=names),
        tooltip=theme.tooltip(["panel", "source", "destination"], numbers, ".1%", frame),
    )
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    cells = base.mark_rect(color=theme.CONTROLS[0]).encode(
        opacity=alt.Opacity("value:Q", legend=None, title=measure).scale(domain=[0, 1], range=[0, 1])
    )
    ink = alt.value("black")
    values = base.mark_text(fontSize=14, dy=-7).encode(text=alt.Text("value:Q", format=".0%"), color=ink)
    notes = base.mark_text(fontSize=10, dy=9).encode(text="note:N", color=ink)
    chart = paper + cells + values + notes
    return theme.finish(theme.facet(chart, frame, "panel", height=60 * len(names)), labels=90)


def depth(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show a ratio over layers for each form and seed: columns task, form, seed, layer, ratio."""
    frame = theme.require(frame, "task", "form", "seed", "layer", "ratio")
    lines = (
        alt.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=theme.layer_axis(),
            y=alt.Y("ratio:Q", title="mean |NMD| / chance"),
            color=theme.color(frame, "form"),
            detail="seed:N",
            tooltip=theme.tooltip(["task", "form", "seed", "layer"], ["ratio"], of=frame),
        )
    )
    return theme.finish(theme.facet(lines, frame, "task"))


def checkpoints(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show measures over training steps, controls dashed: columns task, panel, step, measure, kind, value."""
    frame = theme.require(frame, "task", "panel", "step", "measure", "kind", "value")
    frame["title"] = frame.task + ", " + frame.panel
    dashes = alt.Scale(domain=["model", "random control"], range=[[1, 0], [4, 3]])
    base, n = theme.with_interval(frame, "value", "n")
    chart = base.mark_line(point=True).encode(
        x=alt.X("step:Q", title="training step", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=3)),
        y=theme.share(alt.Y, "value", "share"),
        color=theme.color(frame, "measure"),
        strokeDash=alt.StrokeDash("kind:N", scale=dashes, title=None, legend=alt.Legend(symbolType="stroke")),
        tooltip=theme.tooltip(["task", "measure", "kind", "step"], ["value"]) + n,
    )
    panels = frame.panel.nunique()
    return theme.finish(theme.facet(chart, frame, "title", columns=panels, height=150), legend_columns=4)
