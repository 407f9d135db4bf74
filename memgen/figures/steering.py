"""Figures of the steering chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

LABELS = 250  # pixels: the longest name of a method with its control


def outcomes(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show what each method turns inputs into: columns method, target, behavior, share, and maybe n."""
    frame = theme.require(frame, "method", "target", "behavior", "share")
    frame["title"] = "steered to " + frame.target
    n = [alt.Tooltip("n:Q", format=",")] if "n" in frame else []
    chart = (
        alt.Chart(frame)
        .transform_calculate(rank=f"indexof({list(theme.BEHAVIOR_COLORS)}, datum.behavior)")
        .mark_bar()
        .encode(
            x=theme.share(alt.X, "share", "share of inputs"),
            y=alt.Y("method:N", title=None, sort=theme.names_of(frame, "method"), axis=alt.Axis(labelLimit=LABELS)),
            color=theme.behavior_color("behavior"),
            order="rank:Q",
            tooltip=theme.tooltip(["method", "target", "behavior"], ["share"], ".1%") + n,
        )
    )
    height = 26 * frame.method.nunique()
    return theme.finish(theme.facet(chart, frame, "title", height=height), labels=LABELS)


def sweep(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the share that reaches the target by N and strength: columns n, alpha, target, share, method."""
    frame = theme.require(frame, "n", "alpha", "target", "share", "method")
    frame["title"] = frame.method + " → " + frame.target
    base = alt.Chart(frame).encode(
        x=alt.X("alpha:O", title="strength α", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("n:O", title="neurons N", sort="descending"),
    )
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    cells = base.mark_rect().encode(
        color=theme.behavior_color("target", theme.TARGETS),
        opacity=alt.Opacity("share:Q", legend=None).scale(domain=[0, 1], range=[0, 1]),
        tooltip=theme.tooltip(["method", "target", "n", "alpha"], ["share"], ".1%"),
    )
    is_dark = (alt.datum.share > 0.6) & (alt.datum.target == "memorization")
    ink = alt.when(is_dark).then(alt.value("white")).otherwise(alt.value("black"))
    numbers = base.mark_text().encode(text=alt.Text("share:Q", format=".0%"), color=ink)
    height = 30 * frame.n.nunique()
    return theme.finish(theme.facet(paper + cells + numbers, frame, "title", height=height))


def dose(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the log-odds by strength: columns alpha, target, log_odds, low, high (nats), and maybe method."""
    frame = theme.require(frame, "alpha", "target", "log_odds", "low", "high")
    color = theme.behavior_color("target", theme.TARGETS)
    base = alt.Chart(frame).encode(x=alt.X("alpha:Q", title="strength α"), color=color)
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("log_odds:Q", title="log-odds, memorized against inferred (nats)"),
        tooltip=theme.tooltip(["target", "alpha"], ["log_odds", "low", "high"], ".2f"),
    )
    zero = alt.Chart().mark_rule(strokeDash=[2, 2]).encode(y=alt.datum(0))
    if "method" in frame and frame.method.nunique() > 1:
        return theme.finish(theme.facet(band + line + zero, frame, "method"))
    return theme.finish(band + line + zero)


def by_answer(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show for each answer how often steering reaches the target: columns answer, target, rate, n."""
    frame = theme.require(frame, "answer", "target", "rate", "n")
    order = frame.groupby("answer").rate.mean().sort_values(ascending=False).index.tolist()
    base = alt.Chart(frame, height=alt.Step(18)).encode(y=alt.Y("answer:N", title=None, sort=order))
    span = base.mark_rule(opacity=0.4).encode(x="min(rate):Q", x2="max(rate):Q")
    points = base.mark_circle(size=70, opacity=1).encode(
        x=theme.share(alt.X, "rate", "share of inputs that reach the target"),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=[*theme.tooltip(["answer", "target"], ["rate"], ".1%"), alt.Tooltip("n:Q", format=",")],
    )
    return theme.finish((span + points).properties(height=alt.Step(18)))


def dose_shares(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show shares by strength: columns alpha, target, method, measure (to_target or wrong_way), value, low, high."""
    frame = theme.require(frame, "alpha", "target", "method", "measure", "value", "low", "high")
    words = {"to_target": "reach the target", "wrong_way": "pushed away"}
    frame["title"] = frame.method + ": " + frame.measure.replace(words)
    base = alt.Chart(frame).encode(
        x=alt.X("alpha:Q", title="strength α"), color=theme.behavior_color("target", theme.TARGETS)
    )
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=theme.share(alt.Y, "value", "share of inputs"),
        tooltip=theme.tooltip(["method", "measure", "target", "alpha"], ["value", "low", "high"], ".1%"),
    )
    return theme.finish(theme.facet(band + line, frame, "title"))


def parts(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the share that reaches the target under parts of a shift: columns part, target, to_target, norm, n."""
    frame = theme.require(frame, "part", "target", "to_target", "norm", "n")
    base = alt.Chart(frame).encode(y=alt.Y("part:N", title=None, sort=theme.names_of(frame, "part")))
    span = base.mark_rule(opacity=0.4).encode(x="min(to_target):Q", x2="max(to_target):Q")
    points = base.mark_circle(size=70, opacity=1).encode(
        x=theme.share(alt.X, "to_target", "share of inputs that reach the target"),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=[
            *theme.tooltip(["part", "target"], ["to_target"], ".1%"),
            alt.Tooltip("norm:Q", format=".2f"),
            alt.Tooltip("n:Q", format=","),
        ],
    )
    return theme.finish((span + points).properties(height=alt.Step(22)))
