"""Figures of the prediction chapter."""

import altair
import pandas as pd

from memgen.figures import theme

DASHES = ([1, 0], [8, 4], [2, 3], [12, 3, 2, 3], [4, 2], [1, 4], [16, 4])  # of predictors without a layer, in turn


def accuracy(
    frame: pd.DataFrame, x: str = "layer", panel: str = "site", columns: int = 3, message: str = ""
) -> altair.TopLevelMixin:
    """Show the accuracy of predictors by layer, or by another column `x` of whole numbers, a panel a site.

    Columns `x`, `panel`, kind, probe, value, ci_low, ci_high. Rows of the kind ``control`` have dashed lines; rows
    without `x` are horizontal rules in every panel.
    """
    frame = theme.require(frame, x, panel, "kind", "probe", "value", "ci_low", "ci_high")
    probes, baselines = frame[frame[x].notna()], frame[frame[x].isna()]
    everywhere = baselines.drop(columns=panel).merge(probes[[panel]].drop_duplicates(), how="cross")
    frame = pd.concat([probes, everywhere], ignore_index=True)
    frame[x] = frame[x].astype("Int64")
    tooltip = theme.tooltip(frame, [panel, x, "kind", "probe"])
    y = theme.share(altair.Y, "value", "accuracy")
    base = altair.Chart(frame).encode(y=y, tooltip=tooltip)
    lines = base.transform_filter(f"datum.{x} !== null").encode(
        x=altair.X(f"{x}:O", title=x, axis=altair.Axis(labelAngle=0, labelOverlap=True)),
        color=theme.color(probes, "probe"),
    )
    is_control = altair.datum.kind == "control"
    chart = lines.transform_filter(~is_control).mark_area(opacity=0.2).encode(y="ci_low:Q", y2="ci_high:Q")
    n_places = probes.groupby(panel, sort=False)[x].nunique()
    alone = list(map(str, n_places.index[n_places == 1]))  # panels where an area has no width
    if alone:
        bar = lines.transform_filter(altair.FieldOneOfPredicate(field=panel, oneOf=alone))
        bar = bar.transform_filter(~is_control).mark_rule(strokeWidth=4, opacity=0.4)
        chart += bar.encode(y="ci_low:Q", y2="ci_high:Q")
    chart += lines.transform_filter(~is_control).mark_line(point=True)
    chart += lines.transform_filter(is_control).mark_line(strokeDash=[4, 3], point=True)
    if len(baselines):
        names = theme.names_of(baselines, "probe")
        dashes = altair.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in range(len(names))])
        rules = base.transform_filter(f"datum.{x} === null").mark_rule(color=theme.INK, strokeWidth=1.5)
        legend = altair.Legend(title=None, symbolSize=900)  # long enough to tell dashes apart
        chart += rules.encode(strokeDash=altair.StrokeDash("probe:N", scale=dashes, legend=legend))
    alt = f"Lines by {x}, a panel for each {panel}, for the accuracy of probes and controls; rules for baselines."
    panels = theme.facet(chart, frame, panel, columns=columns).resolve_scale(x="independent")
    return theme.finish(panels, alt, message=message)
