"""Figures of the synthesis chapter."""

import textwrap

import altair as alt
import pandas as pd

from memgen.figures import theme


def headline(frame: pd.DataFrame, summary: pd.DataFrame | None = None) -> alt.TopLevelMixin:
    """Show the headline numbers of every seed, with the mean and interval over seeds.

    Parameters
    ----------
    frame : DataFrame
        Columns task, measure, seed, value: a dot for each seed.
    summary : DataFrame
        Columns task, measure, value, low, high: a tick and a line for each measure; left out, the mean alone.
    """
    frame = theme.require(frame, "task", "measure", "seed", "value").assign(what="seed")
    if summary is None:
        means = frame.groupby(["task", "measure"], as_index=False, sort=False).value.mean()
        summary = means.assign(low=float("nan"), high=float("nan"))
    summary = theme.require(summary, "task", "measure", "value", "low", "high").assign(what="mean")
    rows = pd.concat([frame, summary], ignore_index=True)
    rows["row"] = rows.measure.map(lambda name: textwrap.fill(name, 26))
    folded = alt.Axis(labelExpr="split(datum.label, '\\n')")
    base = alt.Chart(rows).encode(
        y=alt.Y("row:N", title=None, sort=theme.names_of(rows, "row"), axis=folded),
        yOffset=alt.YOffset("task:N", sort=theme.names_of(rows, "task")),
        color=theme.color(rows, "task"),
    )
    mean, seed = (base.transform_filter(alt.datum.what == what) for what in ("mean", "seed"))
    tooltip = theme.tooltip(["task", "measure"], ["value", "low", "high"], of=summary)
    value = alt.X("value:Q", title="value")
    lines = mean.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", tooltip=tooltip)
    ticks = mean.mark_tick(thickness=3, size=16).encode(x=value, tooltip=tooltip)
    dots = seed.mark_circle(size=45, opacity=0.6).encode(
        x=value, tooltip=theme.tooltip(["task", "measure", "seed"], ["value"])
    )
    return theme.finish((lines + ticks + dots).properties(height=alt.Step(16)))


def depth(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show a measure over layers for every seed: columns task, seed, layer, ratio."""
    frame = theme.require(frame, "task", "seed", "layer", "ratio")
    lines = (
        alt.Chart(frame)
        .mark_line(point=True, color=theme.CONTROLS[0])
        .encode(
            x=theme.layer_axis(),
            y=alt.Y("ratio:Q", title="mean |NMD| / chance"),
            detail="seed:N",
            tooltip=theme.tooltip(["task", "seed", "layer"], ["ratio"]),
        )
    )
    return theme.finish(theme.facet(lines, frame, "task"))


def steering(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show how often each method reaches its target: columns task, method, target, value, low, high, control."""
    frame = theme.require(frame, "task", "method", "target", "value", "low", "high", "control")
    base = alt.Chart(frame).encode(
        y=alt.Y("method:N", title=None, sort=theme.names_of(frame, "method"), axis=alt.Axis(labelLimit=260)),
        yOffset=alt.YOffset("target:N"),
        color=theme.behavior_color("target", ("memorization", "generalization")),
    )
    tooltip = theme.tooltip(["task", "method", "target"], ["value", "low", "high", "control"], of=frame)
    x = theme.share(alt.X, "value", "share that reaches the target")
    bars = base.mark_bar(opacity=0.7).encode(x=x, tooltip=tooltip)
    lines = base.mark_rule(strokeWidth=1.5).encode(x="low:Q", x2="high:Q", color=alt.value(theme.OTHER))
    marks = base.mark_tick(thickness=3, size=9).encode(
        x="control:Q", color=alt.value(theme.CONTROLS[1]), tooltip=tooltip
    )
    return theme.finish(theme.facet((bars + lines + marks), frame, "task"), labels=200)
