"""Figures of the chapter on what carries over."""

from collections.abc import Mapping

import altair
import pandas as pd

from memgen.figures import theme

CHECKPOINT_PANELS = {
    "checkpoint_behavior_share": "behaviour",
    "checkpoint_reached": "steering",
    "checkpoint_top_shared": "top neurons",
}


def retrained(frame: pd.DataFrame, study: Mapping[tuple[str, str], float]) -> altair.TopLevelMixin:
    """Show what the study's shift of one seed reaches in the model of another.

    Columns task, target, match, control, measure, value (0-1), ci_low, ci_high, n. `study` has the share that the study
    reports for a retrained adapter, by task and target: diamonds.
    """
    frame = theme.require(frame, "task", "target", "match", "control", "measure", *theme.ESTIMATE)
    is_random = (frame.match == "index") & (frame.control == "random_neurons")
    frame["match"] = frame.match.mask(is_random, "random")
    frame = frame[(frame.measure == "reached") & (frame.control.isna() | is_random)].copy()
    frame["name"], frame["panel"] = frame.match.map(theme.MATCH_NAMES), frame.task + ", to " + frame.target
    frame["reported"] = [study.get(place) for place in zip(frame.task, frame.target, strict=True)]
    frame["note"] = frame.value.map("{:.0%}".format)
    base = altair.Chart(frame).encode(
        y=altair.Y("name:N", title=None, sort=list(theme.MATCH_NAMES.values())).axis(labelExpr=theme.IN_LINES),
        tooltip=theme.tooltip(frame, ["panel", "name"], ["value", "reported"], form=".1%"),
    )
    value = theme.share(altair.X, "value", "share that reaches the target")
    bars = base.mark_bar().encode(x=value, color=theme.behavior_color("target", theme.TARGETS).legend(None))
    numbers = base.mark_text(align="left", dx=4).encode(x="value:Q", text="note:N")
    diamonds = base.transform_filter("datum.match == 'index'").mark_point(**theme.DIAMOND, size=110, color="white")
    layers = bars + numbers + diamonds.encode(x="reported:Q")
    alt = "For each task and target the share that reaches it: with the model's own shift, that of another seed, and "
    alt += "on random neurons; diamonds are what the study reports for a retrained adapter."
    message = "The study's shift in the model of another seed, and (diamonds) in the study's retrained adapter"
    return theme.finish(theme.facet(layers, frame, "panel", height=140), alt, labels=140, message=message)


def matrix(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show what carries from each part to each other, as shares with the best control below.

    Columns task, target, source, destination, value, ci_low, ci_high, n, best_control (0-1).
    """
    frame = theme.require(frame, "task", "target", "source", "destination", *theme.ESTIMATE, "best_control")
    frame["task"] = frame.task.str.replace("_", " ")
    for part in ("source", "destination"):
        frame[part] = frame[part].str.removeprefix("graded_")
    frame["panel"] = frame.task + ",\nto " + frame.target
    frame["note"] = [f"control {share:.0%}" for share in frame.best_control]
    names = theme.names_of(frame, "source")
    base = altair.Chart(frame).encode(
        x=altair.X("destination:N", title="applied to", sort=names, axis=altair.Axis(labelAngle=0)),
        y=altair.Y("source:N", title="computed on", sort=names),
        tooltip=theme.tooltip(frame, ["panel", "source", "destination"], ["value", "best_control"], ".1%"),
    )
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    cells = base.mark_rect(color=theme.CONTROLS[0]).encode(
        opacity=altair.Opacity("value:Q", legend=None).scale(domain=[0, 1], range=[0, 1])
    )
    ink = altair.value("black")
    values = base.mark_text(fontSize=14, dy=-7).encode(text=altair.Text("value:Q", format=".0%"), color=ink)
    notes = base.mark_text(fontSize=11, dy=9).encode(text="note:N", color=ink)
    alt = "Squares of parts that a shift was computed on, by parts that it was applied to: the share and its control."
    chart = theme.facet(paper + cells + values + notes, frame, "panel", height=60 * len(names))
    return theme.finish(chart, alt, labels=100)


def checkpoints(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show behaviour, steering (its control dashed) and top neurons over training steps.

    Columns task, step, and those of :func:`memgen.carryover.checkpoints.at_checkpoint`.
    """
    frame = theme.require(frame, "task", "step", "measure", "behavior", "target", "control", *theme.ESTIMATE)
    frame["panel"] = frame.task + ", " + frame.measure.map(CHECKPOINT_PANELS)
    frame["line"] = frame.behavior.fillna(frame.target).fillna("shared with the analysed step")
    frame["kind"] = frame.control.map(theme.CONTROL_NAMES).fillna("model")
    dashes = altair.Scale(domain=["model", theme.CONTROL_NAMES["random_direction"]], range=[[1, 0], [4, 3]])
    chart = (
        altair.Chart(frame)
        .mark_line(point=True)
        .encode(
            x=altair.X("step:Q", title="training step", scale=altair.Scale(nice=False), axis=altair.Axis(tickCount=3)),
            y=theme.share(altair.Y, "value", "share"),
            color=theme.color(frame, "line"),
            strokeDash=altair.StrokeDash("kind:N", scale=dashes, title=None, legend=altair.Legend(symbolType="stroke")),
            tooltip=theme.tooltip(frame, ["task", "line", "kind", "step"]),
        )
    )
    alt = "Lines over training steps, for each task three panels: behaviour, steering, top neurons."
    return theme.finish(theme.facet(chart, frame, "panel", columns=3, height=150), alt)
