"""Figures of the prediction chapter."""

from typing import Any

import altair
import pandas as pd

from memgen.figures import theme

DASHES = ([1, 0], [8, 4], [2, 3], [12, 3, 2, 3], [4, 2], [1, 4], [16, 4])  # of predictors without a layer, in turn


def by_layer(frame: pd.DataFrame, title: str = "accuracy") -> altair.TopLevelMixin:
    """Show predictors by layer, a panel a site: columns site, layer, kind, probe, value, ci_low, ci_high.

    Rows of the kind ``control`` have dashed lines; rows without a layer are horizontal rules in every panel.
    """
    frame = theme.require(frame, "site", "layer", "kind", "probe", "value", "ci_low", "ci_high")
    probes, baselines = frame[frame.layer.notna()], frame[frame.layer.isna()]
    sites = pd.DataFrame({"site": theme.names_of(probes, "site")})
    frame = pd.concat([probes, baselines.drop(columns="site").merge(sites, how="cross")], ignore_index=True)
    frame["layer"] = frame.layer.astype("Int64")
    tooltip = theme.tooltip(frame, ["site", "layer", "kind", "probe"])
    y: Any = theme.share(altair.Y, "value", title)
    base = altair.Chart(frame).encode(y=y, tooltip=tooltip)
    lines = base.transform_filter("datum.layer !== null").encode(
        x=theme.layer_axis(), color=theme.color(probes, "probe")
    )
    is_control = altair.datum.kind == "control"
    chart = lines.transform_filter(~is_control).mark_area(opacity=0.2).encode(y="ci_low:Q", y2="ci_high:Q")
    chart += lines.transform_filter(~is_control).mark_line(point=True)
    chart += lines.transform_filter(is_control).mark_line(strokeDash=[4, 3], point=True)
    if len(baselines):
        names = theme.names_of(baselines, "probe")
        dashes = altair.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in range(len(names))])
        rules = base.transform_filter("datum.layer === null").mark_rule(color=theme.INK, strokeWidth=1.5)
        legend = altair.Legend(title=None, symbolSize=900)  # long enough to tell dashes apart
        chart += rules.encode(strokeDash=altair.StrokeDash("probe:N", scale=dashes, legend=legend))
    alt = f"Lines over layers, a panel a site, for the {title} of probes and controls; horizontal rules for baselines."
    panels = theme.facet(chart, frame, "site", columns=3).resolve_scale(x="independent")
    return theme.finish(panels, alt)


def by_size(frame: pd.DataFrame, size: str, title: str) -> altair.TopLevelMixin:
    """Show accuracy over a size on a logarithmic axis: columns `size`, kind, value, ci_low, ci_high."""
    frame = theme.require(frame, size, "kind", "value", "ci_low", "ci_high")
    axis = altair.Axis(values=sorted(set(frame[size])), format=",", labelOverlap=True)
    x = altair.X(f"{size}:Q", title=title, axis=axis).scale(type="log", nice=False)
    tooltip = theme.tooltip(frame, ["kind", size])
    base = altair.Chart(frame).encode(x=x, color=theme.color(frame, "kind"), tooltip=tooltip)
    band = base.mark_area(opacity=0.2).encode(y="ci_low:Q", y2="ci_high:Q")
    y: Any = theme.share(altair.Y, "value", "accuracy")
    line = base.mark_line(point=True).encode(y=y)
    return theme.finish(band + line, f"Lines with bands for the accuracy over {title}.")
