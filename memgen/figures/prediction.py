"""Figures of the prediction chapter."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from memgen.figures import theme

DASHES = ([2, 3], [8, 4], [1, 0], [12, 3, 2, 3])  # of baselines, in this order


def by_layer(frame: pd.DataFrame, measure: str = "accuracy", controls: Sequence[str] = ()) -> alt.TopLevelMixin:
    """Show each probe's accuracy by layer: columns site, layer, probe, accuracy, low, high.

    Rows without a layer are baselines; they are drawn as horizontal rules in every site. Probes named in `controls`
    have dashed lines. `measure` names another column to show instead of the accuracy.
    """
    frame = theme.require(frame, "site", "layer", "probe", measure, "low", "high")
    probes, baselines = frame[frame.layer.notna()], frame[frame.layer.isna()]
    sites = pd.DataFrame({"site": theme.names_of(probes, "site")})
    baselines = baselines.drop(columns="site").merge(sites, how="cross")
    frame = pd.concat([probes, baselines], ignore_index=True).astype({"layer": "Int64"})
    base = alt.Chart(frame).encode(
        tooltip=theme.tooltip(["site", "layer", "probe"], [measure, "low", "high"], of=frame)
    )
    lines = base.transform_filter("datum.layer !== null").encode(
        x=theme.layer_axis(), color=theme.color(probes, "probe")
    )
    is_control = alt.FieldOneOfPredicate("probe", list(controls))
    solid, dashed = lines.transform_filter(~is_control), lines.transform_filter(is_control)
    y = theme.share(alt.Y, measure, measure)
    chart = solid.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q") + solid.mark_line(point=True).encode(y=y)
    if controls:
        chart += dashed.mark_line(strokeDash=[4, 3], point=True).encode(y=y)
    if len(baselines):
        names = theme.names_of(baselines, "probe")
        dashes = alt.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in range(len(names))])
        rules = base.transform_filter("datum.layer === null").mark_rule(color=theme.INK, strokeWidth=2)
        chart += rules.encode(y=f"{measure}:Q", strokeDash=alt.StrokeDash("probe:N", scale=dashes, title=None))
    return theme.finish(theme.facet(chart, frame, "site"))


def by_pairs(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show accuracy by the number of pairs: columns n_pairs, accuracy, low, high, and maybe probe."""
    frame = theme.require(frame, "n_pairs", "accuracy", "low", "high")
    if "probe" not in frame:
        frame["probe"] = "probe"
    sizes = alt.Axis(values=sorted(set(frame.n_pairs)), format=",", labelOverlap=True)
    x = alt.X("n_pairs:Q", title="pairs to learn from", axis=sizes).scale(type="log", nice=False)
    base = alt.Chart(frame).encode(x=x, color=theme.color(frame, "probe"))
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=theme.share(alt.Y, "accuracy", "accuracy"),
        tooltip=theme.tooltip(["probe", "n_pairs"], ["accuracy", "low", "high"], of=frame),
    )
    return theme.finish(band + line)
