"""Figures of the training chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

#: Columns of a trajectory: name, colour and dash of the line.
CURVES = {
    "memorized_only": ("memorized-only accuracy", theme.MEMORIZATION, [1, 0]),
    "inferred_only": ("inferred-only accuracy", theme.GENERALIZATION, [1, 0]),
    "conflict_memorization": ("conflict: memorized", theme.MEMORIZATION, [5, 3]),
    "conflict_generalization": ("conflict: inferred", theme.GENERALIZATION, [5, 3]),
    "conflict_other": ("conflict: other", theme.OTHER, [5, 3]),
}


def trajectory(frame: pd.DataFrame, chosen: int) -> alt.TopLevelMixin:
    """Show when each behaviour appears, with a rule at the step `chosen`: columns step and `CURVES` (shares 0-1)."""
    frame = theme.require(frame, "step", *CURVES)
    names = {column: name for column, (name, _, _) in CURVES.items()}
    _, colors, dashes = zip(*CURVES.values(), strict=True)
    rows = frame.rename(columns=names).melt("step", list(names.values()), var_name="curve")
    domain, legend = list(names.values()), alt.Legend(symbolType="stroke", symbolSize=400)
    lines = (
        alt.Chart(rows)
        .mark_line(point={"size": 18})
        .encode(
            x=_steps(),
            y=theme.share(alt.Y, "value", "share of inputs"),
            color=alt.Color("curve:N", title=None, legend=legend).scale(domain=domain, range=colors),
            strokeDash=alt.StrokeDash("curve:N", legend=legend).scale(domain=domain, range=dashes),
            tooltip=theme.tooltip(rows, ["curve", "step"]),
        )
    )
    last = frame.sort_values("step").iloc[-1]
    words = ", ".join(f"{name} {last[column]:.0%}" for column, name in names.items())
    mark = alt.Chart(pd.DataFrame({"step": [chosen], "note": [f"step {chosen:,} is analysed"]}))
    rule = mark.mark_rule(strokeDash=[2, 2]).encode(x="step:Q", tooltip="note:N")
    is_late = bool(chosen > frame.step.mean())
    note = mark.mark_text(y="height", dy=-8, dx=-4 if is_late else 4, align="right" if is_late else "left")
    chart = lines + rule + note.encode(x="step:Q", text="note:N")
    words = f"At the last, step {last.step:,.0f}: {words}. Step {chosen:,} is marked."
    return theme.finish(chart, f"Lines over training steps. {words}", legend_columns=2)


def loss(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the training loss: columns step, loss (nats per token)."""
    frame = theme.require(frame, "step", "loss").sort_values("step")
    chart = (
        alt.Chart(frame, height=180)
        .mark_line(color=theme.CONTROLS[0], point={"size": 18, "color": theme.CONTROLS[0]})
        .encode(
            x=_steps(),
            y=alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False)),
            tooltip=theme.tooltip(frame, ["step"], ["loss"], ".4f"),
        )
    )
    first, last = frame.loss.iloc[0], frame.loss.iloc[-1]
    return theme.finish(chart, f"A line over training steps, from {first:.2f} to {last:.2f} nats per token.")


def _steps() -> alt.X:
    return alt.X("step:Q", title="training step", scale=alt.Scale(nice=False))
