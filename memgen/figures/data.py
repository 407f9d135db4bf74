"""Figures of the data chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

KIND_COLORS = {
    "memorized_only": theme.MEMORIZATION,
    "inferred_only": theme.GENERALIZATION,
    "aligned": theme.CONTROLS[0],
    "conflict": theme.CONTROLS[1],
}


def make_up(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show how many inputs of each kind each split has: columns split, kind, n."""
    frame = theme.require(frame, "split", "kind", "n")
    scale = alt.Scale(domain=list(KIND_COLORS), range=list(KIND_COLORS.values()))
    chart = (
        alt.Chart(frame, height=alt.Step(40))
        .transform_calculate(rank=f"indexof({list(KIND_COLORS)}, datum.kind)")
        .mark_bar()
        .encode(
            x=alt.X("n:Q", title="inputs"),
            y=alt.Y("split:N", title=None, sort=theme.names_of(frame, "split")),
            color=alt.Color("kind:N", scale=scale, title=None),
            order="rank:Q",
            tooltip=theme.tooltip(["split", "kind"], ["n"], ","),
        )
    )
    return theme.finish(chart, legend_columns=2)
