"""Figures of the prediction chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme


def by_layer(frame: pd.DataFrame, measure: str = "accuracy") -> alt.TopLevelMixin:
    """Show each probe's accuracy by layer: columns site, layer, probe, accuracy, low, high.

    Rows without a layer are baselines; they are drawn as horizontal rules in every site. `measure` names
    another column to show instead of the accuracy.
    """
    frame = theme.require(frame, "site", "layer", "probe", measure, "low", "high")
    sites = pd.DataFrame({"site": theme.names_of(frame[frame.layer.notna()], "site")})
    baselines = frame[frame.layer.isna()].drop(columns="site").merge(sites, how="cross")
    frame = pd.concat([frame[frame.layer.notna()], baselines], ignore_index=True).astype({"layer": "Int64"})
    base = alt.Chart(frame).encode(
        color=theme.color(frame, "probe"),
        tooltip=theme.tooltip(["site", "layer", "probe"], [measure, "low", "high"]),
    )
    layers = base.transform_filter("datum.layer !== null").encode(x=theme.layer_axis())
    band = layers.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = layers.mark_line(point=True).encode(y=theme.share(alt.Y, measure, measure))
    rules = base.transform_filter("datum.layer === null").mark_rule(strokeDash=[5, 3], strokeWidth=2)
    return theme.finish(theme.facet(band + line + rules.encode(y=f"{measure}:Q"), frame, "site"))


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
        tooltip=theme.tooltip(["probe", "n_pairs"], ["accuracy", "low", "high"]),
    )
    return theme.finish(band + line)
