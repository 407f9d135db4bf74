"""Figures of the data chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme


def composition(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show how many inputs of each kind each split has: columns split, kind, n."""
    frame = theme.require(frame, "split", "kind", "n")
    frame["name"], frame["rank"] = frame.kind.map(theme.KIND_NAMES), frame.kind.map(list(theme.KIND_COLORS).index)
    shown = {theme.KIND_NAMES[kind]: color for kind, color in theme.KIND_COLORS.items() if kind in set(frame.kind)}
    scale = alt.Scale(domain=list(shown), range=list(shown.values()))
    chart = (
        alt.Chart(frame, height=alt.Step(40))
        .mark_bar()
        .encode(
            x=alt.X("n:Q", title="inputs"),
            y=alt.Y("split:N", title=None, sort=theme.names_of(frame, "split")),
            color=alt.Color("name:N", scale=scale, title=None),
            order="rank:Q",
            tooltip=theme.tooltip(frame, ["split", "name"], []),
        )
    )
    largest = frame.loc[frame.groupby("split", sort=False).n.idxmax()]
    words = "; ".join(f"in {row.split}, most ({row.n:,}) are {row.name}" for row in largest.itertuples(index=False))
    alt_text = f"Stacked bars of the number of inputs of each kind, one for each split: {words}."
    tested = int(frame.n[(frame.split == "test") & (frame.kind == "conflict")].sum())
    message = f"{tested:,} conflicts to test on, about groups that are in no other split"
    return theme.finish(chart, alt_text, message=message)
