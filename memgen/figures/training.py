"""Figures of the training chapter."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from memgen.figures import theme

FLIPS = "variants that flip"
#: The parts of the area by column of a trajectory, from the bottom. Each behaviour grows from an edge of the figure.
STACK = {
    "conflict_memorization": "memorization",
    "conflict_other": "other",
    "conflict_generalization": "generalization",
}
SMALLEST_LABELLED = 0.08  # share of the height
LESSON_WIDTH = 0.09  # of a lesson before the texts, relative to the texts: these are to scale, the lessons are not


def trajectory(frame: pd.DataFrame, chosen: int, study: Mapping[str, float] | None = None) -> alt.TopLevelMixin:
    """Show how behaviour on conflicts changes, with a rule at the step `chosen`, and the lessons before the texts.

    Columns step, lesson, flips and those of `STACK` (shares 0-1); the last lesson is the texts. `study` has the shares
    of the behaviours at which the study stopped: diamonds where its areas would end.
    """
    frame = theme.require(frame, "step", "lesson", "flips", *STACK).sort_values("step")
    ends = frame.groupby("lesson", sort=False).step.max()
    begin = int(ends.iloc[-2]) if len(ends) > 1 else 0
    # The lessons, however long, become spans of one width to the left of the texts.
    width = LESSON_WIDTH * (frame.step.max() - begin)
    edges = begin - width * np.arange(len(ends) - 1, -1, -1)
    frame["place"] = np.interp(frame.step, [0, *ends], [*edges, frame.step.max()])
    spans = pd.DataFrame(
        {"lesson": ends.index[:-1], "left": edges[:-1], "right": edges[1:], "steps": np.diff([0, *ends])[:-1]}
    )
    spans["middle"] = (spans.left + spans.right) / 2
    spans["left"] = spans.left.clip(lower=frame.place.min())  # nothing is measured before
    title = "training step" + (" (lessons not to scale)" if len(spans) else "")
    axis = alt.Axis(labelExpr=f"datum.value < {begin} ? '' : datum.label", grid=False, tickCount=8)
    x = alt.X("place:Q", title=title, axis=axis, scale=alt.Scale(nice=False, domain=[edges[0], int(frame.step.max())]))

    domain = [*STACK.values(), FLIPS]
    colors = [*(theme.BEHAVIOR_COLORS[name] for name in STACK.values()), theme.CONTROLS[1]]
    color = alt.Color("name:N", legend=None).scale(domain=domain, range=colors)
    rows = frame.rename(columns=STACK | {"flips": FLIPS}).melt(["step", "place"], domain, var_name="name")
    rows["rank"] = rows.name.map(domain.index)
    encoding = {"x": x, "color": color, "tooltip": theme.tooltip(rows, ["name", "step"])}
    is_flips = rows.name == FLIPS
    share = theme.share(alt.Y, "value", "share of conflicts")
    area = alt.Chart(rows[~is_flips]).mark_area().encode(y=share.stack(True), order="rank:Q", **encoding)
    flips = alt.Chart(rows[is_flips]).mark_line(strokeWidth=3).encode(y="value:Q", **encoding)

    where = alt.Chart(spans).encode(tooltip=["lesson:N", "steps:Q"])
    shade = where.mark_rect(color="white", opacity=0.55, stroke="white").encode(x="left:Q", x2="right:Q")
    label: dict[str, Any] = {"y": -8, "fontSize": 11, "clip": False}
    upright: dict[str, Any] = {"angle": 270, "align": "right", "y": 4, "fontSize": 11, "color": "black"}
    names = where.mark_text(**upright).encode(x="middle:Q", text="lesson:N")
    mark = alt.Chart(pd.DataFrame({"place": [chosen], "note": ["analysed"], "step": [chosen]})).encode(x="place:Q")
    rule = mark.mark_rule(color="black", strokeWidth=2, strokeDash=[4, 3]).encode(tooltip=["note:N", "step:Q"])
    is_late = chosen > frame.place.mean()
    note = mark.mark_text(**label, align="right" if is_late else "left").encode(text="note:N")
    texts = frame[frame.lesson == ends.index[-1]]
    labels = _labels(texts)
    named = alt.Chart(labels).encode(x="place:Q", y="y:Q")
    is_right = len(labels) > 0 and labels.place.iloc[0] > texts.place.median()
    away = (texts.place - texts.place.quantile(0.2 if is_right else 0.8)).abs().idxmin()  # from the lowest area's name
    there = texts.loc[[away]].assign(name=FLIPS)
    line = alt.Chart(there).encode(x="place:Q", y="flips:Q", text="name:N")
    flip: dict[str, Any] = {"dy": -10, "color": "black", "fontWeight": "bold"}
    edge = line.mark_text(**flip, stroke=theme.CONTROLS[1], strokeWidth=4, strokeJoin="round")
    layers = [area, shade, names, flips, rule, note] if len(spans) else [area, flips, rule, note]
    layers += [theme.write(named, "text", "text", fontSize=13, fontWeight="bold"), edge, line.mark_text(**flip)]
    if study:
        stop = pd.DataFrame({"place": [chosen] * 2, "y": [study["memorization"], 1 - study["generalization"]]})
        stop["stop"] = [f"{name}, {study[name]:.0%}" for name in ("memorization", "generalization")]
        diamonds = alt.Chart(stop).mark_point(shape="diamond", size=120, filled=True, color="white", stroke="black")
        layers.append(diamonds.encode(x="place:Q", y="y:Q", opacity=alt.value(1), tooltip=[alt.Tooltip("stop:N")]))
    at = frame[frame.step == chosen].iloc[0]
    shares = ", ".join(f"{name} {at[column]:.0%}" for column, name in STACK.items())
    message = f"Analysed: step {chosen:,}, {shares}"
    words = f"Behaviour on conflicts as a stacked area over training steps. At the marked step {chosen:,}: {shares}; "
    words += f"{at.flips:.0%} of the variants flip."
    return theme.finish(alt.layer(*layers), words, message=message)


def _labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Where the names of the areas stand: in the middle of each, where it is largest; columns place, y, text."""
    below, rows = 0.0, []
    for column, name in STACK.items():
        middle = below + frame[column] / 2
        at = frame[column].to_numpy().argmax()
        inside = min(max(frame.place.iloc[at], frame.place.quantile(0.2)), frame.place.quantile(0.8))
        at = (frame.place - inside).abs().to_numpy().argmin()
        if frame[column].iloc[at] > SMALLEST_LABELLED:
            rows.append({"place": frame.place.iloc[at], "y": middle.iloc[at], "text": name})
        below = below + frame[column]
    return pd.DataFrame(rows, columns=["place", "y", "text"])


def accuracies(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show when each ability appears: columns step and the kinds of input that there are (0-1)."""
    kinds = [kind for kind in theme.KIND_COLORS if kind in frame]
    frame = theme.require(frame, "step", *kinds)
    rows = frame.melt("step", kinds, var_name="kind")
    rows["inputs"] = rows.kind.map(theme.KIND_NAMES)
    names, colors = [theme.KIND_NAMES[kind] for kind in kinds], [theme.KIND_COLORS[kind] for kind in kinds]
    chart = (
        alt.Chart(rows, height=180)
        .mark_line(point={"size": 18})
        .encode(
            x=alt.X("step:Q", title="training step", scale=alt.Scale(nice=False)),
            y=theme.share(alt.Y, "value", "accuracy"),
            color=alt.Color("inputs:N", title=None).scale(domain=names, range=colors),
            tooltip=theme.tooltip(rows, ["inputs", "step"]),
        )
    )
    last = frame.sort_values("step").iloc[-1]
    words = ", ".join(f"{theme.KIND_NAMES[kind]} {last[kind]:.0%}" for kind in kinds)
    return theme.finish(chart, f"Lines of accuracy over training steps; at the last one: {words}.")
