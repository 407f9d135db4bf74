"""Figures over seeds, for the chapters on all runs."""

import textwrap

import altair
import pandas as pd

from memgen.figures import theme

WIDEST_LABEL = 26  # characters
SETTING_NAMES = {
    "scratch": "same model",
    "lora": "LoRA adapter",
    "retrained": "retrained model",
    "other_task": "other task",
    "random": "random shift",
}


def quantities(seeds: pd.DataFrame, summary: pd.DataFrame, color: str, panel: str = "") -> altair.TopLevelMixin:
    """Show numbers of every seed as dots, and their means over seeds with intervals.

    Columns quantity, `color`, value and, if given, `panel`; of `seeds` also seed, of `summary` ci_low, ci_high and n.
    Means without an interval (of three seeds or fewer) are ticks alone.
    """
    places = [name for name in ("quantity", color, panel) if name]
    seeds = theme.require(seeds, *places, "seed", "value")[[*places, "seed", "value"]].assign(mark="seed")
    summary = theme.require(summary, *places, "value", "ci_low", "ci_high", "n").assign(mark="mean")
    tooltip = theme.tooltip(summary, places)
    rows = pd.concat([seeds, summary], ignore_index=True)
    rows["row"] = rows.quantity.map(lambda name: textwrap.fill(name, WIDEST_LABEL))
    if panel:
        rows[panel] = rows[panel].str.replace("_", " ")
    labels = altair.Axis(labelExpr=theme.IN_LINES)
    base = altair.Chart(rows).encode(
        y=altair.Y("row:N", title=None, sort=theme.names_of(rows, "row"), axis=labels),
        yOffset=altair.YOffset(f"{color}:N", sort=theme.names_of(rows, color)),
        color=theme.color(rows, color),
    )
    mean, seed = (base.transform_filter(altair.datum.mark == mark) for mark in ("mean", "seed"))
    value = altair.X("value:Q", title="value")
    has_interval = mean.transform_filter("isValid(datum.ci_low)")
    lines = has_interval.mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q", tooltip=tooltip)
    ticks = mean.mark_tick(thickness=3, size=12).encode(x=value, tooltip=tooltip)
    dots = seed.mark_circle(size=45, opacity=0.6).encode(x=value, tooltip=theme.tooltip(seeds, [*places, "seed"]))
    height = max(34, 10 * (1 + rows[color].nunique())) * rows.row.nunique()  # a label has up to two lines
    chart = (lines + ticks + dots).properties(height=height)
    alt = (
        f"For each quantity and {color} a dot for each seed, and a tick and a line for the mean and its 95 % interval."
    )
    if panel:
        chart = theme.facet(chart, rows, panel, columns=min(2, rows[panel].nunique()), height=height)
    return theme.finish(chart, alt, labels=180)


def depth(frame: pd.DataFrame, color: str) -> altair.TopLevelMixin:
    """Show AUROC over layers, a line for each seed: columns base_task, seed, layer, value and `color`."""
    frame = theme.require(frame, "base_task", "seed", "layer", "value", color)
    lines = (
        altair.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=theme.layer_axis(),
            y=altair.Y("value:Q", title="AUROC within pairs", scale=altair.Scale(zero=False)),
            color=theme.color(frame, color).title(color),
            detail="seed:N",
            tooltip=theme.tooltip(frame, ["base_task", color, "seed", "layer"]),
        )
    )
    alt = f"A panel for each task: lines over layers, one for each seed, coloured by {color}."
    return theme.finish(theme.facet(lines, frame, "base_task"), alt)


def steering(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show how often each method reaches its target, beside its best control.

    Columns task, method, target, value, ci_low, ci_high, n, control.
    """
    frame = theme.require(frame, "task", "method", "target", *theme.ESTIMATE, "control")
    frame["name"] = frame.method.map(theme.METHOD_NAMES).map(lambda name: textwrap.fill(name, 18))
    base = altair.Chart(frame).encode(
        y=altair.Y("name:N", title=None, sort=theme.names_of(frame, "name")).axis(labelExpr=theme.IN_LINES),
        yOffset=altair.YOffset("target:N"),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=theme.tooltip(frame, ["task", "name", "target"], ["value", "control"]),
    )
    bars = base.mark_bar().encode(x=theme.share(altair.X, "value", "share that reaches the target"))
    has_interval = base.transform_filter("isValid(datum.ci_low)")
    lines = has_interval.mark_rule(strokeWidth=1.5).encode(x="ci_low:Q", x2="ci_high:Q", color=altair.value(theme.INK))
    marks = base.mark_tick(thickness=3, size=14).encode(x="control:Q", color=altair.value(theme.INK))
    alt = (
        "A panel for each task: for each method a bar to memorization and a bar to generalization, with its interval "
        "over seeds and a mark for its best control."
    )
    chart = theme.facet(bars + lines + marks, frame, "task", height=34 * frame.method.nunique())
    return theme.finish(chart, alt, labels=140)


def cells(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show the study's numbers as diamonds and ours as ticks with their intervals.

    Columns setting, task, target, outcome, study (0-1), ours, value, ci_low, ci_high, n.
    """
    frame = theme.require(frame, "setting", "task", "target", "outcome", "study", "ours", *theme.ESTIMATE)
    frame["panel"] = frame.task + ", " + frame.outcome
    names = frame.setting.map(SETTING_NAMES) + ": " + frame.ours
    frame["row"] = names.map(lambda name: textwrap.fill(name, WIDEST_LABEL))
    base = altair.Chart(frame).encode(
        y=altair.Y("row:N", title=None, sort=None, axis=altair.Axis(labelExpr=theme.IN_LINES)),
        yOffset=altair.YOffset("target:N", sort=list(theme.TARGETS)),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=theme.tooltip(frame, ["setting", "task", "target", "outcome", "ours"], ["study", "value"]),
    )
    value = theme.share(altair.X, "value", "share of inputs")
    lines = base.transform_filter("isValid(datum.ci_low)").mark_rule(strokeWidth=2).encode(x="ci_low:Q", x2="ci_high:Q")
    ticks = base.transform_filter("isValid(datum.value)").mark_tick(thickness=3, size=12).encode(x=value)
    points = base.mark_point(shape="diamond", size=60, filled=True, opacity=1).encode(x="study:Q")
    alt = "For each task and outcome a row for each cell: the study's share as a diamond, our mean and its interval."
    chart = theme.facet(lines + ticks + points, frame, "panel", height=34 * frame.row.nunique())
    return theme.finish(chart, alt, labels=180)
