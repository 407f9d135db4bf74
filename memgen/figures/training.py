"""Figures of the training chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

MEASURES = {  # name: colour and dash
    "memorized-only accuracy": (theme.MEMORIZATION, [1, 0]),
    "inferred-only accuracy": (theme.GENERALIZATION, [1, 0]),
    "conflict: memorized": (theme.MEMORIZATION, [5, 3]),
    "conflict: inferred": (theme.GENERALIZATION, [5, 3]),
    "conflict: other": (theme.OTHER, [5, 3]),
}


def trajectory(frame: pd.DataFrame, chosen: int | None = None) -> alt.TopLevelMixin:
    """Show when each behaviour appears: columns step, measure (a name of `MEASURES`), rate.

    A rule stands at the step `chosen`.
    """
    frame = theme.require(frame, "step", "measure", "rate")
    unknown = set(frame.measure) - MEASURES.keys()
    if unknown:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {', '.join(map(str, unknown))}.")
    domain = list(MEASURES)
    colors, dashes = zip(*MEASURES.values(), strict=True)
    legend = alt.Legend(symbolType="stroke", symbolSize=400)
    chart: alt.Chart | alt.LayerChart = (
        alt.Chart(frame)
        .mark_line(point={"size": 18})
        .encode(
            x=_steps(),
            y=theme.share(alt.Y, "rate", "share of inputs"),
            color=alt.Color("measure:N", title=None, legend=legend).scale(domain=domain, range=colors),
            strokeDash=alt.StrokeDash("measure:N", legend=legend).scale(domain=domain, range=dashes),
            tooltip=theme.tooltip(["measure", "step"], ["rate"], of=frame),
        )
    )
    if chosen is not None:
        mark = alt.Chart(pd.DataFrame({"step": [chosen], "note": [f"step {chosen:,} is analysed"]}))
        rule = mark.mark_rule(strokeDash=[2, 2]).encode(x="step:Q", tooltip="note:N")
        left = bool(chosen > frame.step.mean())
        note = mark.mark_text(y="height", dy=-8, dx=-4 if left else 4, align="right" if left else "left")
        chart = chart + rule + note.encode(x="step:Q", text="note:N")
    return theme.finish(chart, legend_columns=2)


def loss(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the training loss: columns step, loss (nats per token)."""
    frame = theme.require(frame, "step", "loss")
    chart = (
        alt.Chart(frame, height=180)
        .mark_line(color=theme.CONTROLS[0], point={"size": 18, "color": theme.CONTROLS[0]})
        .encode(
            x=_steps(),
            y=alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False)),
            tooltip=theme.tooltip(["step"], ["loss"], ".4f"),
        )
    )
    return theme.finish(chart)


def _steps() -> alt.X:
    return alt.X("step:Q", title="training step", scale=alt.Scale(nice=False))
