"""Figures of the steering chapter. Frames are tidy: `value, ci_low, ci_high, n`, and the columns that are required."""

import textwrap
from collections.abc import Mapping

import altair
import pandas as pd

from memgen.figures import theme

SHARE = altair.Scale(domain=[0, 1])
ESTIMATE = ("value", "ci_low", "ci_high", "n")
MEASURE_NAMES = {
    "reached": "reach the target",
    "best_control": "best control",
    "other": "other answers",
    "wrong_way": "pushed away",
    "lost_memorized_only": "lost, memorized-only",
    "lost_inferred_only": "lost, inferred-only",
    "lost_aligned": "lost, aligned",
    "log_odds": "log-odds",
}
AT_SLIDERS = "datum.at_n === at_n && datum.at_alpha === at_alpha"
METHOD_COLORS = (*theme.CONTROLS[:4], theme.INK, "#332288", theme.CONTROLS[4])


def outcomes(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show what inputs become under each method (`control` is missing) and its best control.

    Columns method, control, target, measure; the measures reached, stayed and other.
    """
    frame = theme.require(frame, "method", "control", "target", "measure", *ESTIMATE)
    frame = frame[frame.measure.isin(["reached", "stayed", "other"])].copy()
    opposite = frame.target.map(dict(zip(theme.TARGETS, reversed(theme.TARGETS), strict=True)))
    frame["behavior"] = frame.target.where(frame.measure == "reached", opposite).where(
        frame.measure != "other", "other"
    )
    frame["title"] = "steered to " + frame.target
    frame["name"] = frame.method.map(theme.METHOD_NAMES).map(lambda name: textwrap.fill(name, 18))
    frame["shift"] = frame.control.map(theme.CONTROL_NAMES).fillna("shift")
    order = theme.names_of(frame, "shift")
    bars = altair.Chart(frame).transform_calculate(rank=f"indexof({list(theme.BEHAVIOR_COLORS)}, datum.behavior)")
    bars = bars.mark_bar().encode(
        x=altair.X("value:Q", title="share of inputs", scale=SHARE),
        y=altair.Y("name:N", title=None, sort=theme.names_of(frame, "name")).axis(
            labelExpr="split(datum.label, '\\n')"
        ),
        yOffset=altair.YOffset("shift:N", sort=order),
        color=theme.behavior_color("behavior"),
        opacity=altair.Opacity("shift:N", sort=order, title=None).scale(domain=order, range=[1, 0.5]),
        order="rank:Q",
        tooltip=theme.tooltip(frame, ["name", "shift", "target", "behavior"], form=".1%"),
    )
    alt = "Stacked bars for each method and target, those of its control below: memorization, generalization, other."
    chart = theme.facet(bars, frame, "title", height=44 * frame.method.nunique())
    return theme.finish(chart, alt, labels=140)


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
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    opacity = altair.Opacity("value:Q", legend=None).scale(domain=[0, 1], range=[0, 1])
    cells = base.mark_rect().encode(theme.behavior_color("target", theme.TARGETS), opacity, tooltip=shown)
    is_dark = (altair.datum.value > 0.6) & (altair.datum.target == "memorization")
    ink = altair.when(is_dark).then(altair.value("white")).otherwise(altair.value("black"))
    numbers = base.mark_text().encode(text=altair.Text("value:Q", format=".0%"), color=ink, tooltip=shown)
    marked = base.transform_filter(AT_SLIDERS).mark_rect(filled=False, stroke=theme.CONTROLS[3], strokeWidth=3)
    grid = theme.facet(paper + cells + marked + numbers, reached, "title", height=22 * len(sizes) + 20)
    net = frame[frame.measure == "net"].groupby(["at_n", "at_alpha"]).value.mean()
    at_n, at_alpha = net.idxmax() if net.notna().any() else (0, 0)
    sliders = [
        theme.slider("at_n", "neurons N", len(sizes) - 1, int(at_n)),
        theme.slider("at_alpha", "alpha", len(alphas) - 1, int(at_alpha)),
    ]
    steps = {"at_n": [f"{size:,}" for size in sizes], "at_alpha": [f"{alpha:g}" for alpha in alphas]}
    alt = (
        "Two heat maps of N by alpha, one for each target; below each, for one N and alpha, three bars: the share that "
    )
    alt += "reaches the target, the best control, and other answers."
    chart = theme.stack([grid, _at_sliders(frame)], sliders)
    return theme.finish(chart, alt, labels=110, steps=steps, pick={"at_n": "at_n", "at_alpha": "at_alpha"})


def _at_sliders(frame: pd.DataFrame) -> altair.FacetChart:
    shades = theme.BEHAVIOR_COLORS | {"other answers": theme.OTHER, "best control": theme.CONTROLS[1]}
    rows = frame[frame.measure.isin(["reached", "other", "best_control"])].copy()
    rows["name"] = rows.measure.map(MEASURE_NAMES)
    rows["shade"] = rows.target.where(rows.measure == "reached", rows.name)
    scale = altair.Scale(domain=list(shades), range=list(shades.values()))
    base = altair.Chart(rows).transform_filter(AT_SLIDERS)
    base = base.encode(
        x=altair.X("value:Q", title="share of inputs", scale=SHARE),
        y=altair.Y("name:N", title=None, sort=list(MEASURE_NAMES.values())),
        tooltip=theme.tooltip(rows, ["name", "target", "n_neurons", "alpha"], form=".1%"),
    )
    bars = base.mark_bar().encode(color=altair.Color("shade:N", scale=scale, legend=None))
    numbers = base.mark_text(align="left", dx=4).encode(text=altair.Text("value:Q", format=".0%"))
    return theme.facet(bars + numbers, rows, "title", height=75)


def frontier(frame: pd.DataFrame, limits: Mapping[str, float]) -> altair.TopLevelMixin:
    """Show what every trial reaches against what it costs, the chosen ones marked, a panel a target and cost.

    Columns of :func:`memgen.steering.sweep.frontier`; `limits` (by cost) are drawn as lines. A click on a method in the
    legend leaves that method alone.
    """
    costs = ["cost_value", "cost_low", "cost_high"]
    marks = ["is_chosen", "is_frontier"]
    frame = theme.require(frame, "method", "target", "candidate", "alpha", "dose", "cost", *costs, *marks, *ESTIMATE)
    frame = frame.sort_values("cost", key=lambda names: names.map(list(MEASURE_NAMES).index), kind="stable")
    frame["name"], frame["limit"] = frame.method.map(theme.METHOD_NAMES), frame.cost.map(limits)
    frame["title"] = "to " + frame.target + ": " + frame.cost.map(MEASURE_NAMES)
    names = theme.names_of(frame, "name")
    picked = altair.selection_point(fields=["name"], bind="legend")
    shown = theme.tooltip(frame, ["name", "title", "candidate", "alpha", "dose"], form=".1%")
    base = altair.Chart(frame).encode(
        x=altair.X("cost_value:Q", title="cost (see the title)"),
        y=altair.Y("value:Q", title="reach the target", scale=SHARE),
        color=altair.Color("name:N", title=None).scale(domain=names, range=list(METHOD_COLORS[: len(names)])),
        tooltip=shown + [altair.Tooltip(f"{name}:Q", format=".1%") for name in costs],
    )
    opacity = {
        strength: altair.when(picked).then(altair.value(strength)).otherwise(altair.value(0.03))
        for strength in (0.5, 0.8, 1)
    }
    points = base.mark_circle(size=22).encode(opacity=opacity[0.5]).add_params(picked)
    lines = base.transform_filter("datum.is_frontier").mark_line(interpolate="step-after", strokeWidth=1)
    chosen = base.transform_filter("datum.is_chosen").mark_point(filled=True, shape="diamond", size=110, stroke="black")
    limit = altair.Chart(frame).mark_rule(strokeDash=[3, 3]).encode(x="mean(limit):Q")
    layers = limit + lines.encode(opacity=opacity[0.8]) + points + chosen.encode(opacity=opacity[1])
    alt = "A panel for each target and cost: the share of inputs that reaches the target against the cost, a point for "
    alt += "each trial, a colour for each method, diamonds for the chosen trials, a dashed line at the limit."
    return theme.finish(theme.facet(layers, frame, "title", height=150), alt, legend_columns=2)


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


def by_answer(frame: pd.DataFrame) -> altair.TopLevelMixin:
    """Show the share that reaches the target with its interval for each target and answer: columns target, answer."""
    frame = theme.require(frame, "answer", "target", *ESTIMATE)
    names = theme.names_of(frame, "answer")
    base = altair.Chart(frame, height=altair.Step(12)).encode(
        y=altair.Y("answer:N", title=None, sort=names),
        yOffset=altair.YOffset("target:N", sort=list(theme.TARGETS)),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=theme.tooltip(frame, ["answer", "target"], form=".1%"),
    )
    title = "share that reaches the target"
    rules = base.mark_rule().encode(x=altair.X("ci_low:Q", title=title), x2="ci_high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(x=altair.X("value:Q", title=title).axis(format="%"))
    alt = f"{title} for each of {', '.join(map(str, names))}: a point with an interval for each target."
    return theme.finish(rules + points, alt)
