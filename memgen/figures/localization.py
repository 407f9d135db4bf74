"""Figures of the localization chapter."""

import textwrap

import altair as alt
import pandas as pd

from memgen.figures import theme

MIDDLE = "#F4F4F4"  # no difference, between the two behaviours' colours
ROW = 30  # height of a layer in a heat map


def heat_map(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show NMD, layers x neurons sorted by NMD: columns site, layer, rank (place in the layer's order), nmd.

    The colours end at the largest |NMD| of a site, so sites are compared by shape and not by shade.
    """
    frame = theme.require(frame, "site", "layer", "rank", "nmd")
    frame["scaled"] = frame.nmd / frame.groupby("site").nmd.transform(lambda nmd: nmd.abs().max() or 1.0)
    scale = alt.Scale(domain=[-1, 0, 1], range=[theme.GENERALIZATION, MIDDLE, theme.MEMORIZATION])
    chart = (
        alt.Chart(frame)
        .mark_rect(width=alt.RelativeBandSize(band=1.2), minBandSize=1.5)  # no seams between cells
        .encode(
            x=alt.X("rank:O", title="neurons, sorted by NMD", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("layer:O", title="layer", sort="descending"),
            color=alt.Color("scaled:Q", scale=scale, title="NMD / largest |NMD| of the site"),
            tooltip=theme.tooltip(frame, ["site", "layer", "rank"], ["nmd"], ".4f"),
        )
    )
    height = min(frame.layer.nunique(), 10) * ROW
    facets = theme.facet(chart, frame, "site", columns=1, height=height).resolve_scale(x="independent")
    words = "Heat maps of NMD, a row for each layer: blue neurons are more active under memorization, orange neurons "
    return theme.finish(facets, words + "under generalization; the colours are strongest at both ends of a row.")


def by_layer(
    frame: pd.DataFrame, title: str, color: str = "labels", panel: str = "site", message: str = ""
) -> alt.TopLevelMixin:
    """Show a number by layer, in panels: columns layer, those of `color` and `panel`, value and interval."""
    frame = theme.require(frame, panel, "layer", color, "value", "ci_low", "ci_high")
    base = alt.Chart(frame).encode(x=theme.layer_axis(), color=theme.color(frame, color))
    band = base.mark_area(opacity=0.2).encode(y="ci_low:Q", y2="ci_high:Q")
    y = alt.Y("value:Q", title=textwrap.wrap(title, 32))
    line = base.mark_line(point=True).encode(y=y, tooltip=theme.tooltip(frame, [color, panel, "layer"]))
    listed = " and ".join(map(str, theme.names_of(frame, color)))
    words = f"Lines with bands over layers, a panel for each {panel}: {title}, for {listed}."
    return theme.finish(theme.facet(band + line, frame, panel), words, message=message)


def projections(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show what an adapter's projections put out, by layer: columns projection, part (base, adapter), layer, value.

    What is next to zero, as in the first layer, has no place on the logarithmic axis and is left out.
    """
    frame = theme.require(frame, "projection", "part", "layer", "value")
    frame = frame[frame.value > 1e-6 * frame.value.max()].reset_index(drop=True)
    line = alt.Chart(frame).mark_line(point=True)
    line = line.encode(
        x=theme.layer_axis(),
        y=alt.Y("value:Q", title="mean |NMD| of the neurons", scale=alt.Scale(type="log"), axis=alt.Axis(tickCount=4)),
        color=theme.color(frame, "part"),
        tooltip=theme.tooltip(frame, ["projection", "part", "layer"], form=".2g"),
    )
    words = "Lines over layers on a logarithmic scale, a panel for each adapted projection: mean absolute NMD of what "
    words += "the base puts out, and of what the adapter adds."
    return theme.finish(theme.facet(line, frame, "projection"), words)


def patched(frame: pd.DataFrame, place: str, title: str) -> alt.TopLevelMixin:
    """Show a share, layers x `place` (heads, or parts of the prompt), a panel for each target.

    Columns layer, `place`, target, value (0-1); with heads also part, for panels of the parts of the prompt.
    """
    frame = theme.require(frame, "layer", place, "target", "value")
    frame["panel"] = "to " + frame.target
    if place != "part" and "part" in frame:
        frame["panel"] = frame.part + ", " + frame.panel
        parts = theme.names_of(frame, "part")
        frame = frame.sort_values("part", key=lambda part: part.map(parts.index), kind="stable", ignore_index=True)
    base = alt.Chart(frame).encode(
        x=alt.X(f"{place}:N", title=place, sort=theme.names_of(frame, place), axis=alt.Axis(labelAngle=0)),
        y=alt.Y("layer:O", title="layer", sort="descending"),
        tooltip=theme.tooltip(frame, ["panel", "layer", place]),
    )
    listed = ", ".join(theme.names_of(frame, "panel"))
    words = f"Heat maps, a row for each layer and a column for each {place}: {title}; panels: {listed}."
    paper, cells, numbers = theme.shares_in_cells(base, {"fontSize": 11})
    height = min(frame.layer.nunique(), 10) * ROW
    return theme.finish(theme.facet(paper + cells + numbers, frame, "panel", height=height), words)


def patched_sets(frame: pd.DataFrame, title: str) -> alt.TopLevelMixin:
    """Show what patching sets of neurons does against their size, a panel for each site and ranking.

    Columns site, ranking, end (top, bottom, random), share (of the neurons), target, value, ci_low, ci_high. Random
    sets belong to no ranking (``random``); they are drawn in every panel of their site.
    """
    frame = theme.require(frame, "site", "ranking", "end", "share", "target", "value", "ci_low", "ci_high")
    is_random = frame.ranking == "random"
    panels = frame.loc[~is_random, ["site", "ranking"]].drop_duplicates()
    everywhere = frame[is_random].drop(columns="ranking").merge(panels, on="site")
    frame = pd.concat([frame[~is_random], everywhere], ignore_index=True)
    frame["panel"] = frame.site.replace(theme.SITE_NAMES) + ", " + frame.ranking.replace(theme.RANKING_NAMES)
    frame["to"] = "to " + frame.target
    sizes = alt.Axis(values=sorted(set(frame.share)), format="~%", labelOverlap=True)
    base = alt.Chart(frame).encode(
        x=alt.X("share:Q", title="share of the neurons", axis=sizes).scale(type="log", nice=False),
        color=theme.color(frame, "end"),
    )
    band = base.mark_area(opacity=0.1).encode(y="ci_low:Q", y2="ci_high:Q", detail="target:N")
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title=textwrap.wrap(title, 24)),
        strokeDash=alt.StrokeDash("to:N", title=None, sort=theme.names_of(frame, "to")),
        tooltip=theme.tooltip(frame, ["site", "ranking", "end", "target"], ["share", "value"]),
    )
    words = f"Lines over the share of patched neurons, a panel for each site and ranking: {title}, for the top and the "
    words += "bottom of the ranking and for random neurons."
    return theme.finish(theme.facet(band + line, frame, "panel", columns=3, height=150), words)
