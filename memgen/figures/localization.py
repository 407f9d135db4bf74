"""Figures of the localization chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

MIDDLE = "#F4F4F4"  # no difference, between the two behaviours' colours
ROW = 30  # height of a layer in a heat map


def heat_map(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show NMD, layers x neurons sorted by NMD: columns site, layer, rank (place in the layer's order), nmd.

    Blue neurons are more active under memorization, orange ones under generalization. The colours end at the
    largest |NMD| of a site, so sites are compared by shape and not by shade.
    """
    frame = theme.require(frame, "site", "layer", "rank", "nmd")
    frame["scaled"] = frame.nmd / frame.groupby("site").nmd.transform(lambda nmd: nmd.abs().max() or 1.0)
    scale = alt.Scale(domain=[-1, 0, 1], range=[theme.GENERALIZATION, MIDDLE, theme.MEMORIZATION])
    height = min(ROW * frame.layer.nunique(), 10 * ROW)
    chart = (
        alt.Chart(frame, height=height)
        .mark_rect(width=alt.RelativeBandSize(band=1.2), minBandSize=1.5)  # no seams between cells
        .encode(
            x=alt.X("rank:O", title="neurons, sorted by NMD", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("layer:O", title="layer", sort="descending"),
            color=alt.Color("scaled:Q", scale=scale, title="NMD / largest |NMD| of the site"),
            tooltip=theme.tooltip(["site", "layer", "rank"], ["nmd"], ".4f"),
        )
    )
    if frame.site.nunique() == 1:
        return theme.finish(chart)
    facets = theme.facet(chart, frame, "site", columns=1, height=height)
    return theme.finish(facets.resolve_scale(x="independent"))


def top_neurons(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the neurons that tell the behaviours apart: columns layer, neuron, nmd, r, and maybe site."""
    frame = theme.require(frame, "layer", "neuron", "nmd", "r")
    frame["name"] = "layer " + frame.layer.astype(str) + ", neuron " + frame.neuron.astype(str)
    if "site" in frame and frame.site.nunique() > 1:
        frame["name"] = frame.site + ", " + frame.name
    frame["behavior"] = (frame.r > 0).map({True: "memorization", False: "generalization"})
    r = alt.X("r:Q", title="Pearson r with the behaviour", scale=alt.Scale(domain=[-1, 1]))
    order = frame.loc[frame.r.abs().sort_values(ascending=False).index, "name"].tolist()
    chart = (
        alt.Chart(frame, height=alt.Step(18))
        .mark_bar()
        .encode(
            x=r,
            y=alt.Y("name:N", title=None, sort=order),
            color=theme.behavior_color("behavior", theme.TARGETS),
            tooltip=theme.tooltip(["name"], ["r", "nmd"]),
        )
    )
    return theme.finish(chart)


def depth_profile(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show measures by layer, a panel for each site, with intervals: columns site, layer, measure, value, low, high."""
    frame = theme.require(frame, "site", "layer", "value", "low", "high", "measure")
    base = alt.Chart(frame).encode(x=theme.layer_axis(), color=theme.color(frame, "measure"))
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title=None),
        tooltip=theme.tooltip(["measure", "site", "layer"], ["value", "low", "high"]),
    )
    return theme.finish(theme.facet(band + line, frame, "site").resolve_scale(y="independent"))


def patching(frame: pd.DataFrame, title: str = "effect of patching") -> alt.TopLevelMixin:
    """Show what replacing a layer's activations does: columns site, layer, direction, value, low, high."""
    frame = theme.require(frame, "site", "layer", "direction", "value", "low", "high")
    color = theme.color(frame, "direction")
    base = alt.Chart(frame).encode(x=theme.layer_axis(), xOffset="direction:N", color=color)
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(
        y="value:Q", tooltip=theme.tooltip(["site", "layer", "direction"], ["value", "low", "high"])
    )
    return theme.finish(theme.facet(bars + points, frame, "site"))
