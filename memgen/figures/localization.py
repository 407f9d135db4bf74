"""Figures of the localization chapter."""

import textwrap

import altair as alt
import pandas as pd

from memgen.figures import theme

MIDDLE = "#F4F4F4"  # no difference, between the two behaviours' colours
NUMBERS = ("r", "nmd", "effect_size", "q_value")  # of a neuron
SHOWN_QUANTILES = (10, 25, 50, 75, 90)  # %, of a neuron's activations under one behaviour
QUANTILES = tuple(f"{behavior}_{q}" for behavior in theme.TARGETS for q in SHOWN_QUANTILES)
# The cell that the controls choose; a layer's last one where it has fewer neurons.
CHOSEN = "datum.site === at_site && datum.layer === at_layer && datum.rank === min(at_rank, datum.last)"
CHOSEN_NAME = alt.expr("at_site + ', layer ' + at_layer")
ROW = 30  # height of a layer in a heat map


def heat_map(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show NMD, layers x neurons sorted by NMD: columns site, layer, rank (place in the layer's order), nmd.

    Blue neurons are more active under memorization, orange ones under generalization. The colours end at the
    largest |NMD| of a site, so sites are compared by shape and not by shade. Where `frame` has the columns of
    :data:`QUANTILES`, a second view shows the activations of one neuron under both behaviours: the one that is clicked,
    or that the controls below choose.
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
    chart: alt.Chart | alt.LayerChart = base.mark_rect(
        width=alt.RelativeBandSize(band=1.2),
        minBandSize=1.5,  # no seams between cells
    ).encode(
        color=alt.Color("scaled:Q", scale=scale, title="NMD / largest |NMD| of the site"),
        tooltip=theme.tooltip(["site", "layer", "rank"], ["nmd"], ".4f", frame),
    )
    can_choose = set(QUANTILES) <= set(frame)
    if can_choose:
        chosen = base.transform_filter(CHOSEN).mark_tick(color=theme.INK, thickness=3, height=ROW, opacity=1)
        chart = chart + chosen
    elif frame.site.nunique() == 1:
        return theme.finish(chart)
    facets = theme.facet(chart, cells, "site", columns=1, height=height).resolve_scale(x="independent")
    if not can_choose:
        return theme.finish(facets)
    first = frame.loc[frame.scaled.abs().idxmax()]
    sites = theme.names_of(frame, "site")
    controls = [
        theme.choice("at_site", "site", sites, first.site),
        theme.slider("at_layer", "layer", int(frame.layer.max()), int(first.layer)),
        theme.slider("at_rank", "neuron, by NMD", int(frame["rank"].max()), int(first["rank"])),
    ]
    both = theme.stack([facets, _one_neuron(frame)], controls)
    return theme.finish(both, labels=100, pick={"at_site": "site", "at_layer": "layer", "at_rank": "rank"})


def _one_neuron(frame: pd.DataFrame) -> alt.LayerChart:
    """The activations of the neuron that the controls of :func:`heat_map` choose."""
    columns = [name for name in ("site", "layer", "rank", "neuron", "last", "n") if name in frame]
    shown = [f"q{q}" for q in SHOWN_QUANTILES]
    parts = [
        frame[columns].assign(behavior=name, **{f"q{q}": frame[f"{name}_{q}"] for q in SHOWN_QUANTILES})
        for name in theme.TARGETS
    ]
    rows = pd.concat(parts, ignore_index=True)
    tooltip = theme.tooltip(["behavior", *(name for name in columns if name not in ("last", "n"))], shown, of=rows)
    base = (
        alt.Chart(rows, height=60, width=theme.FACETS_WIDTH, title=alt.Title(CHOSEN_NAME, fontSize=12))
        .transform_filter(CHOSEN)
        .encode(
            y=alt.Y("behavior:N", title=None, sort=list(theme.TARGETS)),
            color=theme.behavior_color("behavior", theme.TARGETS).legend(None),
            tooltip=tooltip,
        )
    )
    x = alt.X("q10:Q", title="activation in pairs", scale=alt.Scale(zero=False))
    whole = base.mark_rule(strokeWidth=2).encode(x=x, x2="q90:Q")
    half = base.mark_bar(size=12, opacity=0.6).encode(x="q25:Q", x2="q75:Q")
    median = base.mark_tick(thickness=3, size=20, opacity=1).encode(x="q50:Q")
    return whole + half + median


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
            tooltip=theme.tooltip(["name"], [name for name in NUMBERS if name in frame], of=frame),
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
        tooltip=theme.tooltip(["measure", "site", "layer"], ["value", "low", "high"], of=frame),
    )
    return theme.finish(theme.facet(band + line, frame, "site").resolve_scale(y="independent"))


def patching(frame: pd.DataFrame, title: str = "effect of patching") -> alt.TopLevelMixin:
    """Show what replacing a layer's activations does: columns site, layer, direction, value, low, high."""
    frame = theme.require(frame, "site", "layer", "direction", "value", "low", "high")
    color = theme.color(frame, "direction")
    base = alt.Chart(frame).encode(x=theme.layer_axis(), xOffset="direction:N", color=color)
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(
        y="value:Q", tooltip=theme.tooltip(["site", "layer", "direction"], ["value", "low", "high"], of=frame)
    )
    return theme.finish(theme.facet(bars + points, frame, "site"))


def units(frame: pd.DataFrame, title: str = "effect of patching") -> alt.TopLevelMixin:
    """Show what patching sets of neurons does against their size, a panel for each site and ranking.

    Columns site, ranking, end (top, bottom, random), share (of the neurons), direction, value, low, high. Random sets
    belong to no ranking (``random``); they are drawn in every panel of their site.
    """
    frame = theme.require(frame, "site", "ranking", "end", "share", "direction", "value", "low", "high")
    is_random = frame.ranking == "random"
    panels = frame.loc[~is_random, ["site", "ranking"]].drop_duplicates()
    everywhere = frame[is_random].drop(columns="ranking").merge(panels, on="site")
    frame = pd.concat([frame[~is_random], everywhere], ignore_index=True)
    frame["panel"] = frame.site + ", |" + frame.ranking + "|"
    frame["to"] = "to " + frame.direction
    sizes = alt.Axis(values=sorted(set(frame.share)), format="~%", labelOverlap=True)
    base = alt.Chart(frame).encode(
        x=alt.X("share:Q", title="share of the neurons", axis=sizes).scale(type="log", nice=False),
        color=theme.color(frame, "end"),
    )
    band = base.mark_area(opacity=0.1).encode(y="low:Q", y2="high:Q", detail="direction:N")
    line = base.mark_line(point=True).encode(
        y=alt.Y("value:Q", title=textwrap.wrap(title, 24)),
        strokeDash=alt.StrokeDash("to:N", title=None, sort=theme.names_of(frame, "to")),
        tooltip=theme.tooltip(["site", "ranking", "end", "direction"], ["share", "value", "low", "high"], of=frame),
    )
    return theme.finish(theme.facet(band + line, frame, "panel", columns=3, height=150))


def stability(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show a number of each ranking beside chance: columns site, ranking, measure, value, low, high."""
    frame = theme.require(frame, "site", "ranking", "measure", "value", "low", "high")
    frame["ranking"] = "|" + frame.ranking + "|"
    rankings = alt.X("ranking:N", title=None, sort=theme.names_of(frame, "ranking"), axis=alt.Axis(labelAngle=0))
    base = alt.Chart(frame).encode(x=rankings, xOffset="measure:N", color=theme.color(frame, "measure"))
    bars = base.mark_rule(strokeWidth=2).encode(y=theme.share(alt.Y, "low", "overlap"), y2="high:Q")
    points = base.mark_circle(size=60, opacity=1).encode(
        y="value:Q", tooltip=theme.tooltip(["site", "ranking", "measure"], ["value", "low", "high"], of=frame)
    )
    return theme.finish(theme.facet(bars + points, frame, "site"))


def concentration(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show how a sum is spread over neurons: columns site, measure, share (of the neurons), value (of the sum)."""
    frame = theme.require(frame, "site", "measure", "share", "value")
    line = (
        alt.Chart(frame)
        .mark_line()
        .encode(
            x=theme.share(alt.X, "share", "share of the neurons, largest first"),
            y=theme.share(alt.Y, "value", "share of the sum"),
            color=theme.color(frame, "measure"),
            tooltip=theme.tooltip(["site", "measure"], ["share", "value"], of=frame),
        )
    )
    return theme.finish(theme.facet(line, frame, "site"))
