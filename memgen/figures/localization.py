"""Figures of the localization chapter."""

import textwrap
from typing import Literal

import altair as alt
import pandas as pd

from memgen.figures import theme

MIDDLE = "#F4F4F4"  # no difference, between the two behaviours' colours
SHOWN_QUANTILES = (10, 25, 50, 75, 90)  # %, of a neuron's activations under a behaviour
QUANTILES = tuple(f"{behavior}_{q}" for behavior in theme.TARGETS for q in SHOWN_QUANTILES)
# The cell that the controls choose; a layer's last where it has fewer neurons.
CHOSEN = "datum.site === at_site && datum.layer === at_layer && datum.rank === min(at_rank, datum.last)"
ROW = 30  # height of a layer in a heat map


def heat_map(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show NMD, layers x neurons sorted by NMD: columns site, layer, rank (place in the layer's order), nmd.

    The colours end at the largest |NMD| of a site, so sites are compared by shape and not by shade. Where `frame` has
    the columns of :data:`QUANTILES`, a second view shows the activations of a single neuron under both behaviours: the
    neuron that is clicked, or that the controls below choose.
    """
    frame = theme.require(frame, "site", "layer", "rank", "nmd")
    frame["scaled"] = frame.nmd / frame.groupby("site").nmd.transform(lambda nmd: nmd.abs().max() or 1.0)
    frame["last"] = frame.groupby(["site", "layer"])["rank"].transform("max")
    scale = alt.Scale(domain=[-1, 0, 1], range=[theme.GENERALIZATION, MIDDLE, theme.MEMORIZATION])
    height = min(ROW * frame.layer.nunique(), 10 * ROW)
    cells = frame.drop(columns=[*QUANTILES, "neuron"], errors="ignore")  # a page holds no number twice
    base = alt.Chart(cells, height=height).encode(
        x=alt.X("rank:O", title="neurons, sorted by NMD", axis=alt.Axis(labels=False, ticks=False)),
        y=alt.Y("layer:O", title="layer", sort="descending"),
    )
    band = alt.RelativeBandSize(band=1.2)
    chart: alt.Chart | alt.LayerChart = base.mark_rect(width=band, minBandSize=1.5).encode(  # no seams between cells
        color=alt.Color("scaled:Q", scale=scale, title="NMD / largest |NMD| of the site"),
        tooltip=theme.tooltip(cells, ["site", "layer", "rank"], ["nmd"], ".4f"),
    )
    words = "Heat maps of NMD, a row for each layer: blue neurons are more active under memorization, orange neurons "
    words += "under generalization; the colours are strongest at both ends of a row."
    with_neurons = set(QUANTILES) <= set(frame)
    if with_neurons:
        chart = chart + base.transform_filter(CHOSEN).mark_tick(color=theme.INK, thickness=3, height=ROW, opacity=1)
    facets = theme.facet(chart, cells, "site", columns=1, height=height).resolve_scale(x="independent")
    if not with_neurons:
        return theme.finish(facets, words)
    first = frame.loc[frame.scaled.abs().idxmax()]
    controls = [
        theme.choice("at_site", "site", theme.names_of(frame, "site"), first.site),
        theme.slider("at_layer", "layer", int(frame.layer.max()), int(first.layer)),
        theme.slider("at_rank", "neuron, by NMD", int(frame["rank"].max()), int(first["rank"])),
    ]
    views = theme.stack([facets, _single_neuron(frame)], controls)
    words += " Below, two bars for a chosen neuron: its activations under memorization and under generalization."
    return theme.finish(views, words, labels=100, pick={"at_site": "site", "at_layer": "layer", "at_rank": "rank"})


def _single_neuron(frame: pd.DataFrame) -> alt.LayerChart:
    """The activations of the neuron that the controls of :func:`heat_map` choose."""
    place = ["site", "layer", "rank", "neuron"]
    parts = [
        frame[[*place, "last", "n"]].assign(behavior=name, **{f"q{q}": frame[f"{name}_{q}"] for q in SHOWN_QUANTILES})
        for name in theme.TARGETS
    ]
    rows = pd.concat(parts, ignore_index=True)
    title = alt.Title(alt.expr("at_site + ', layer ' + at_layer"), fontSize=12)
    base = (
        alt.Chart(rows, height=60, width=theme.FACETS_WIDTH, title=title)
        .transform_filter(CHOSEN)
        .encode(
            y=alt.Y("behavior:N", title=None, sort=list(theme.TARGETS)),
            color=theme.behavior_color("behavior", theme.TARGETS).legend(None),
            tooltip=theme.tooltip(rows, ["behavior", *place], [f"q{q}" for q in SHOWN_QUANTILES]),
        )
    )
    x = alt.X("q10:Q", title="activation in pairs", scale=alt.Scale(zero=False))
    whole = base.mark_rule(strokeWidth=2).encode(x=x, x2="q90:Q")
    half = base.mark_bar(size=12, opacity=0.6).encode(x="q25:Q", x2="q75:Q")
    return whole + half + base.mark_tick(thickness=3, size=20, opacity=1).encode(x="q50:Q")


def by_layer(
    frame: pd.DataFrame, title: str, color: str = "labels", y_scale: Literal["shared", "independent"] = "shared"
) -> alt.TopLevelMixin:
    """Show a number by layer, a panel for each site: columns site, layer, that of `color`, value, ci_low, ci_high.

    `y_scale` is ``shared``, or ``independent`` where the sites have units of their own.
    """
    frame = theme.require(frame, "site", "layer", color, "value", "ci_low", "ci_high")
    base = alt.Chart(frame).encode(x=theme.layer_axis(), color=theme.color(frame, color))
    band = base.mark_area(opacity=0.2).encode(y="ci_low:Q", y2="ci_high:Q")
    y = alt.Y("value:Q", title=textwrap.wrap(title, 32))
    line = base.mark_line(point=True).encode(y=y, tooltip=theme.tooltip(frame, [color, "site", "layer"]))
    words = f"Lines with bands over layers, a panel for each site: {title}, for {_listed(frame, color)}."
    return theme.finish(theme.facet(band + line, frame, "site").resolve_scale(y=y_scale), words)


def by_category(frame: pd.DataFrame, category: str, title: str) -> alt.TopLevelMixin:
    """Show shares beside their null, by site: columns site, that of `category`, labels, value, ci_low, ci_high."""
    frame = theme.require(frame, "site", category, "labels", "value", "ci_low", "ci_high")
    x = alt.X(f"{category}:N", title=None, sort=theme.names_of(frame, category), axis=alt.Axis(labelAngle=0))
    base = alt.Chart(frame).encode(x=x, xOffset="labels:N", color=theme.color(frame, "labels"))
    bars = base.mark_rule(strokeWidth=2).encode(y=theme.share(alt.Y, "ci_low", title), y2="ci_high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(
        y="value:Q", tooltip=theme.tooltip(frame, ["site", category, "labels"])
    )
    words = f"Points with intervals for each {category}, a panel for each site: {title}, {_listed(frame, 'labels')}."
    return theme.finish(theme.facet(bars + points, frame, "site"), words)


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
    frame["panel"] = frame.site + ", |" + frame.ranking + "|"
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


def _listed(frame: pd.DataFrame, column: str) -> str:
    return " and ".join(map(str, theme.names_of(frame, column)))
