"""Figures of the chapter on planted memory."""

import altair as alt
import pandas as pd

from memgen.figures import theme


def behaviors(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show what models with planted memory do on conflicts: columns block, rank, behavior, value (0-1)."""
    frame = theme.require(frame, "block", "rank", "behavior", "value")
    frame["planted"] = frame.block + ", rank " + frame["rank"].astype(str)
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=theme.share(alt.X, "value", "share of conflicts").stack("zero"),
            y=alt.Y("planted:N", title=None, sort=theme.names_of(frame, "planted")),
            color=theme.behavior_color("behavior"),
            tooltip=theme.tooltip(frame, ["planted", "behavior"]),
        )
        .properties(height=16 * frame.planted.nunique())
    )
    words = "Bars, one for each model with planted memory: the shares of conflicts that it remembers, infers, or "
    words += "answers otherwise."
    return theme.finish(bars, words, labels=130)


def found(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the block that a localizer found against the one that was planted, a panel for each localizer.

    Columns ranking, block and found_block (labels of blocks, those of `block` in their order), rank, found (0 or 1).
    """
    frame = theme.require(frame, "ranking", "block", "found_block", "rank", "found")
    blocks, frame["panel"] = theme.names_of(frame, "block"), frame.ranking.replace(theme.RANKING_NAMES)
    frame["is"] = frame.found.map({1: "the planted block", 0: "another block"})
    points = (
        alt.Chart(frame)
        .mark_point(filled=True, opacity=0.8)
        .encode(
            x=alt.X("block:N", title="planted in", sort=blocks).scale(domain=blocks),
            y=alt.Y("found_block:N", title="found in", sort=blocks[::-1]).scale(domain=blocks[::-1]),
            color=theme.color(frame.sort_values("found", ascending=False), "is"),
            size=alt.Size("count():Q", legend=None).scale(rangeMin=50),
            tooltip=[
                *theme.tooltip(frame, ["panel", "block", "found_block"], []),
                alt.Tooltip("count():Q", title="models"),
            ],
        )
    )
    words = "Points in a grid of blocks, the planted one across and the one that was found upwards, a panel for each "
    words += "localizer. Where a localizer is right, points lie on the diagonal."
    message = f"The planted block was found in {frame.found.mean():.0%} of all looks"
    return theme.finish(theme.facet(points, frame, "panel", height=240), words, message=message)
