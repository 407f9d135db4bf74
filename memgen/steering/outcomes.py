"""What became of the inputs: rates, differences from controls, and their intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from memgen import behavior, statistics
from memgen.behavior import NAMES, OTHER
from memgen.steering.interventions import TARGETS

LEAST_INPUTS = 5  # of an answer whose rate is told apart
TOLERANCE = 1e-3  # nats: a smaller change of the log-odds may be rounding, and counts as none
WORST_SHARE = 0.1  # of the groups: those with the lowest rates


def what_happened(
    behavior_after: ArrayLike, log_odds_before: ArrayLike, log_odds_after: ArrayLike, target: ArrayLike
) -> dict[str, NDArray[np.bool_]]:
    """What a shift towards `target` did to inputs of the opposite behaviour, one entry an input.

    `to_target` and `to_other`: did the behaviour become that? `wrong_way`: did the log-odds move away from the target?
    """
    after, target = np.asarray(behavior_after), np.asarray(target)
    moved = np.asarray(log_odds_after) - np.asarray(log_odds_before)
    return {"to_target": after == target, "to_other": after == OTHER, "wrong_way": moved * target < -TOLERANCE}


def rates(before: pd.DataFrame, after: pd.DataFrame, target: int) -> dict[str, float]:
    """The shares of :func:`what_happened`, nan where no input had the opposite behaviour."""
    own = (before.behavior == -target).to_numpy()
    if not own.any():
        return dict.fromkeys(("to_target", "to_other", "wrong_way"), float("nan"))
    end = after.loc[before.index[own]]
    told = what_happened(end.behavior, before.log_odds[own], end.log_odds, target)
    return {name: float(happened.mean()) for name, happened in told.items()}


def preference(before: pd.DataFrame, after: pd.DataFrame, target: int) -> float:
    """The mean probability of the target's answer among the two, over inputs of the opposite behaviour; nan if none.

    It moves where a greedy answer does not move: so it tells a shift that barely suffices from a sure one.
    """
    own = (before.behavior == -target).to_numpy()
    return float(expit(target * after.log_odds.loc[before.index[own]]).mean()) if own.any() else float("nan")


def outcomes(before: pd.DataFrame, after: pd.DataFrame, target: int, method: str) -> pd.DataFrame:
    """Rows of ``outcomes.parquet`` for one method and target: every input, whatever its behaviour was."""
    frame = pd.DataFrame({"input": before.index, "method": method, "target": target})
    for name in ("behavior", "log_odds"):
        frame[f"{name}_before"] = before[name].to_numpy()
        frame[f"{name}_after"] = after[name].loc[before.index].to_numpy()
    return frame


def opposite(result: pd.DataFrame) -> pd.DataFrame:
    """The rows of inputs whose behaviour was the opposite of the target, with :func:`what_happened` (0 or 1)."""
    own = result[result.behavior_before == -result.target]
    happened = what_happened(own.behavior_after, own.log_odds_before, own.log_odds_after, own.target)
    return own.assign(**{name: value.astype(float) for name, value in happened.items()})


def summarize(result: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Rates by method and target over the inputs of the opposite behaviour, with intervals clustered by group.

    Parameters
    ----------
    result
        Rows of ``outcomes.parquet`` with their `group`.

    Returns
    -------
    pandas.DataFrame
        `method, target, measure` (to_target, to_other, wrong_way)`, value, low, high, n`; nothing for a target whose
        opposite no input showed.
    """
    rows = []
    for (method, target), own in opposite(result).groupby(["method", "target"], sort=False):
        for name in ("to_target", "to_other", "wrong_way"):
            estimate = statistics.clustered_mean(own[name], own.group, rng, n_resamples)
            rows.append({"method": method, "target": target, "measure": name, **estimate._asdict()})
    return pd.DataFrame(rows, columns=["method", "target", "measure", "value", "low", "high", "n"])


def shares(result: pd.DataFrame) -> pd.DataFrame:
    """What inputs of the opposite behaviour become: `method, target` (name)`, behavior, share, n`."""
    own = result[result.behavior_before == -result.target]
    rows = []
    for (method, target), some in own.groupby(["method", "target"], sort=False):
        for name, share in behavior.rates(some.behavior_after).items():
            rows.append({"method": method, "target": NAMES[target], "behavior": name, "share": share, "n": len(some)})
    return pd.DataFrame(rows)


def best_controls(result: pd.DataFrame) -> dict[tuple[str, int], str]:
    """The strongest control of each method and target: the kind that brings most inputs of the opposite there."""
    own = opposite(result)
    own = own[own.method.str.contains(": ")]
    reached = own.groupby(["method", "target"], sort=False).to_target.mean().reset_index()
    reached["of"] = reached.method.str.split(": ").str[0]
    best = reached.loc[reached.groupby(["of", "target"], sort=False).to_target.idxmax()]
    return {(row.of, row.target): row.method for row in best.itertuples()}


def beside_best_controls(result: pd.DataFrame) -> pd.DataFrame:
    """The rows of the methods, and those of each one's best control under the name ``<method>: best control``."""
    best = best_controls(result)
    parts = [result[~result.method.str.contains(": ", regex=False)]]
    for (method, target), control in best.items():
        own = result[(result.method == control) & (result.target == target)]
        parts.append(own.assign(method=f"{method}: best control"))
    return pd.concat(parts, ignore_index=True)


def rates_in_columns(summary: pd.DataFrame) -> pd.DataFrame:
    """What :func:`summarize` tells, one row a method and target (name): its rates, and the interval of `to_target`."""
    keys = ["method", "target"]
    measures = ["to_target", "to_other", "wrong_way"]
    wide = summary.pivot(index=keys, columns="measure", values="value").reindex(columns=measures)
    reached = summary[summary.measure == "to_target"].set_index(keys)[["low", "high", "n"]]
    table = reached.join(wide).reset_index()
    columns = [*keys, "to_target", "low", "high", "to_other", "wrong_way", "n"]
    return table.assign(target=table.target.map(NAMES))[columns]


def net_effect(
    result: pd.DataFrame, methods: Sequence[str], rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Share that reaches the target under a method minus that under its best control, paired by input.

    Methods without controls are left out.

    Returns
    -------
    pandas.DataFrame
        `method, target, control` (the best one)`, value, low, high, n`.
    """
    rows, best, own = [], best_controls(result), opposite(result)
    for method in methods:
        for target in TARGETS:
            if (method, target) not in best:
                continue
            some = own[own.target == target]
            hits = some[some.method == method].set_index("input")
            control = some[some.method == best[method, target]].groupby("input").to_target.mean()
            difference = statistics.paired_difference(hits.to_target, control[hits.index], hits.group, rng, n_resamples)
            told = {"method": method, "target": target, "control": best[method, target].partition(": ")[2]}
            rows.append(told | difference._asdict())
    return pd.DataFrame(rows, columns=["method", "target", "control", "value", "low", "high", "n"])


def by_answer(result: pd.DataFrame) -> pd.DataFrame:
    """The share that reaches the target for each answer with at least `LEAST_INPUTS` inputs of the opposite behaviour.

    Returns
    -------
    pandas.DataFrame
        `method, target, kind` (memorization: by the memorized answer; generalization: by the inferred one)`, answer,
        rate, n`.
    """
    parts = []
    for kind in ("memorization", "generalization"):
        keys = ["method", "target", f"answer_{kind}"]
        table = opposite(result).groupby(keys, sort=False).to_target.agg(rate="mean", n="size").reset_index()
        parts.append(table.rename(columns={f"answer_{kind}": "answer"}).assign(kind=kind))
    columns = ["method", "target", "kind", "answer", "rate", "n"]
    return pd.concat(parts, ignore_index=True).query("n >= @LEAST_INPUTS")[columns].reset_index(drop=True)


def worst_answers(result: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """Of :func:`by_answer` the lowest rate of each method and target, with its interval clustered by group.

    The lowest of several estimates lies below the lowest of what they estimate, the more so the fewer inputs they have.

    Returns
    -------
    pandas.DataFrame
        `method, target, kind, answer, value, low, high, n`.
    """
    rows, own = [], opposite(result)
    table = by_answer(result)
    for row in table.loc[table.groupby(["method", "target"], sort=False).rate.idxmin()].itertuples():
        some = own[(own.method == row.method) & (own.target == row.target)]
        some = some[some[f"answer_{row.kind}"] == row.answer]
        told = {"method": row.method, "target": row.target, "kind": row.kind, "answer": row.answer}
        rows.append(told | statistics.clustered_mean(some.to_target, some.group, rng, n_resamples)._asdict())
    return pd.DataFrame(rows, columns=["method", "target", "kind", "answer", "value", "low", "high", "n"])


def mean_of_lowest(values: ArrayLike) -> float:
    """The mean of the lowest tenth (`WORST_SHARE`, at least one)."""
    values = np.sort(np.asarray(values, dtype=float))
    return float(values[: max(1, round(WORST_SHARE * len(values)))].mean())


def worst_groups(result: pd.DataFrame, rng: np.random.Generator, n_resamples: int) -> pd.DataFrame:
    """The mean rate of the lowest tenth of the groups: `method, target, value, low, high, n` (of groups)."""
    rows = []
    for (method, target), own in opposite(result).groupby(["method", "target"], sort=False):
        reached = own.groupby("group").to_target.mean().to_numpy()
        estimate = statistics.clustered_statistic(mean_of_lowest, [reached], np.arange(len(reached)), rng, n_resamples)
        rows.append({"method": method, "target": target, **estimate._asdict()})
    return pd.DataFrame(rows, columns=["method", "target", "value", "low", "high", "n"])
