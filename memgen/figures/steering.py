"""Figures of the steering chapter."""

import altair as alt
import pandas as pd

from memgen.figures import theme

# What a trial tells, in words, and the one that sliders choose.
OUTCOMES = {"share": "reach target", "to_other": "other answers", "control": "best control"}
CHOSEN = "datum.at_n === at_n && datum.at_alpha === at_alpha"
LABELS = 160  # pixels: the longest name of a method
# A control stands below its method, whose name it need not repeat.
SHORT_NAMES = alt.Axis(labelExpr="peek(split(datum.label, ': '))", labelLimit=LABELS)


def outcomes(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show what each method turns inputs into: columns method, target, behavior, share, and maybe n."""
    frame = theme.require(frame, "method", "target", "behavior", "share")
    frame["title"] = "steered to " + frame.target
    base, n = theme.with_interval(frame, "share", "n")
    chart = (
        base.transform_calculate(rank=f"indexof({list(theme.BEHAVIOR_COLORS)}, datum.behavior)")
        .mark_bar()
        .encode(
            x=theme.share(alt.X, "share", "share of inputs"),
            y=alt.Y("method:N", title=None, sort=theme.names_of(frame, "method"), axis=SHORT_NAMES),
            color=theme.behavior_color("behavior"),
            order="rank:Q",
            tooltip=theme.tooltip(["method", "target", "behavior"], ["share"], ".1%") + n,
        )
    )
    height = 26 * frame.method.nunique()
    return theme.finish(theme.facet(chart, frame, "title", height=height), labels=LABELS)


def sweep(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the share that reaches the target by N and strength: columns n, alpha, target, share, method.

    Where `frame` has `to_other` and `control`, too, these are shown beside the share for one N and one strength, which
    sliders choose, or a click. `inputs`, if there, is how many inputs a share is of.
    """
    frame = theme.require(frame, "n", "alpha", "target", "share", "method")
    frame["title"] = frame.method + " → " + frame.target
    sizes, strengths = sorted(set(frame.n)), sorted(set(frame.alpha))
    frame["at_n"], frame["at_alpha"] = frame.n.map(sizes.index), frame.alpha.map(strengths.index)
    base, inputs = theme.with_interval(frame, "share", "inputs")
    base = base.encode(
        x=alt.X("alpha:O", title="strength α", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("n:O", title="neurons N", sort="descending"),
    )
    paper = base.mark_rect(color="white")  # the same shades on a dark page
    tooltip = theme.tooltip(["method", "target", "n", "alpha"], ["share"], ".1%") + inputs
    cells = base.mark_rect().encode(
        color=theme.behavior_color("target", theme.TARGETS),
        opacity=alt.Opacity("share:Q", legend=None).scale(domain=[0, 1], range=[0, 1]),
        tooltip=tooltip,
    )
    is_dark = (alt.datum.share > 0.6) & (alt.datum.target == "memorization")
    ink = alt.when(is_dark).then(alt.value("white")).otherwise(alt.value("black"))
    numbers = base.mark_text().encode(text=alt.Text("share:Q", format=".0%"), color=ink, tooltip=tooltip)
    height = 30 * frame.n.nunique()
    if not {"to_other", "control"} <= set(frame):
        return theme.finish(theme.facet(paper + cells + numbers, frame, "title", height=height))
    chosen = base.transform_filter(CHOSEN).mark_rect(filled=False, stroke=theme.CONTROLS[3], strokeWidth=3)
    facets = theme.facet(paper + cells + chosen + numbers, frame, "title", height=height)
    net = (frame.share - frame.control - frame.to_other).groupby([frame.at_n, frame.at_alpha]).mean()
    at_n, at_alpha = map(int, net.idxmax() if net.notna().any() else net.index[0])
    controls = [
        theme.slider("at_n", "neurons N", len(sizes) - 1, at_n),
        theme.slider("at_alpha", "strength α", len(strengths) - 1, at_alpha),
    ]
    both = theme.stack([facets, _at_one_setting(frame)], controls)
    steps = {"at_n": [f"{size:,}" for size in sizes], "at_alpha": [f"{strength:g}" for strength in strengths]}
    return theme.finish(both, labels=110, steps=steps, pick={"at_n": "at_n", "at_alpha": "at_alpha"})


def _at_one_setting(frame: pd.DataFrame) -> alt.FacetChart:
    """What becomes of inputs at the N and strength that the sliders of :func:`sweep` choose."""
    rows = frame.rename(columns=OUTCOMES).melt(
        ["title", "target", "n", "alpha", "at_n", "at_alpha", *(["inputs"] if "inputs" in frame else [])],
        list(OUTCOMES.values()),
        "outcome",
        "share",
    )
    rows["color"] = rows.target.where(rows.outcome == OUTCOMES["share"], rows.outcome)
    shades = theme.BEHAVIOR_COLORS | {OUTCOMES["to_other"]: theme.OTHER, OUTCOMES["control"]: theme.CONTROLS[1]}
    scale = alt.Scale(domain=list(shades), range=list(shades.values()))
    base, inputs = theme.with_interval(rows, "share", "inputs")
    base = base.transform_filter(CHOSEN).encode(
        x=alt.X("share:Q", title="share of inputs").axis(format="%").scale(domain=[0, 1]),
        y=alt.Y("outcome:N", title=None, sort=list(OUTCOMES.values())),
        tooltip=theme.tooltip(["outcome", "target", "n", "alpha"], ["share"], ".1%") + inputs,
    )
    bars = base.mark_bar().encode(color=alt.Color("color:N", scale=scale, legend=None))
    numbers = base.mark_text(align="left", dx=4).encode(text=alt.Text("share:Q", format=".0%"))
    return theme.facet(bars + numbers, rows, "title", height=75)


def trials(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show one candidate at every strength, chosen from a list, for both targets.

    Columns method, candidate, strength, target, to_target, to_other, control; `inputs`, if there, is how many inputs a
    share is of.
    """
    frame = theme.require(frame, "method", "candidate", "strength", "target", "to_target", "to_other", "control")
    same = frame.apply(lambda row: row.candidate.startswith(row.method), axis=1)
    frame["name"] = frame.candidate.where(same, frame.method + ": " + frame.candidate)
    frame["title"] = "steered to " + frame.target
    words = {"to_target": "reach the target", "to_other": OUTCOMES["to_other"], "control": OUTCOMES["control"]}
    about = ["name", "title", "strength", *(["inputs"] if "inputs" in frame else [])]
    rows = frame[[*about, *words]].rename(columns=words).melt(about, var_name="outcome", value_name="share")
    names = theme.names_of(rows, "name")
    base, inputs = theme.with_interval(rows, "share", "inputs")
    scale = alt.Scale(domain=list(words.values()), range=[theme.CONTROLS[0], theme.OTHER, theme.CONTROLS[1]])
    chart = (
        base.transform_filter("datum.name === at_name")
        .mark_line(point=True)
        .encode(
            x=alt.X("strength:Q", title="strength").scale(zero=False),
            y=theme.share(alt.Y, "share", "share of inputs"),
            color=alt.Color("outcome:N", scale=scale, title=None),
            tooltip=theme.tooltip(["name", "outcome", "strength"], ["share"], ".1%") + inputs,
        )
    )
    start = frame.loc[(frame.to_target - frame.control).idxmax(), "name"]
    facets = theme.facet(chart, rows, "title", height=160)
    return theme.finish(facets.add_params(theme.choice("at_name", "candidate", names, start)))


def dose(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the log-odds by strength: columns alpha, target, log_odds, low, high (nats), and maybe method."""
    frame = theme.require(frame, "alpha", "target", "log_odds", "low", "high")
    color = theme.behavior_color("target", theme.TARGETS)
    base = alt.Chart(frame).encode(x=alt.X("alpha:Q", title="strength α"), color=color)
    band = base.mark_area(opacity=0.2).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(point=True).encode(
        y=alt.Y("log_odds:Q", title="log-odds, memorized against inferred (nats)"),
        tooltip=theme.tooltip(["target", "alpha"], ["log_odds", "low", "high"], ".2f", frame),
    )
    zero = alt.Chart().mark_rule(strokeDash=[2, 2]).encode(y=alt.datum(0))
    if "method" in frame and frame.method.nunique() > 1:
        return theme.finish(theme.facet(band + line + zero, frame, "method"))
    return theme.finish(band + line + zero)


def by_answer(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show for each answer how often steering reaches the target: columns answer, target, rate, n."""
    frame = theme.require(frame, "answer", "target", "rate", "n")
    order = frame.groupby("answer").rate.mean().sort_values(ascending=False).index.tolist()
    base, n = theme.with_interval(frame, "rate", "n")
    base = base.encode(y=alt.Y("answer:N", title=None, sort=order))
    span = base.mark_rule(opacity=0.4).encode(x="min(rate):Q", x2="max(rate):Q")
    points = base.mark_circle(size=70, opacity=1).encode(
        x=theme.share(alt.X, "rate", "share of inputs"),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=theme.tooltip(["answer", "target"], ["rate"], ".1%") + n,
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
        tooltip=theme.tooltip(["method", "measure", "target", "alpha"], ["value", "low", "high"], ".1%", frame),
    )
    return theme.finish(theme.facet(band + line, frame, "title"))


def parts(frame: pd.DataFrame) -> alt.TopLevelMixin:
    """Show the share that reaches the target under parts of a shift: columns part, target, to_target, norm, n."""
    frame = theme.require(frame, "part", "target", "to_target", "norm", "n")
    base, n = theme.with_interval(frame, "to_target", "n")
    base = base.encode(y=alt.Y("part:N", title=None, sort=theme.names_of(frame, "part")))
    span = base.mark_rule(opacity=0.4).encode(x="min(to_target):Q", x2="max(to_target):Q")
    points = base.mark_circle(size=70, opacity=1).encode(
        x=theme.share(alt.X, "to_target", "share of inputs"),
        color=theme.behavior_color("target", theme.TARGETS),
        tooltip=[*theme.tooltip(["part", "target"], ["to_target"], ".1%"), alt.Tooltip("norm:Q", format=".2f"), *n],
    )
    return theme.finish((span + points).properties(height=alt.Step(22)))
