"""What became of the inputs: rates, differences from controls, and their intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memgen import behavior, statistics
from memgen.behavior import NAMES, OTHER
from memgen.steering.interventions import TARGETS


def moved(before: pd.DataFrame, after: pd.DataFrame, target: int) -> pd.DataFrame:
    """What a shift towards `target` did to the inputs of the opposite behaviour.

    Returns
    -------
    pandas.DataFrame
        With the index of those inputs: `to_target` and `to_other` (did the behaviour become that?), `wrong_way` (did
        the log-odds move away from the target?), each 0 or 1.
    """
    chosen = before.index[before.behavior == -target]
    end = after.loc[chosen]
    wrong = (end.log_odds - before.log_odds[chosen]) * target < 0
    columns = {"to_target": end.behavior == target, "to_other": end.behavior == OTHER, "wrong_way": wrong}
    return pd.DataFrame(columns).astype(float)


def rates(before: pd.DataFrame, after: pd.DataFrame, target: int) -> dict[str, float]:
    """The means of :func:`moved`, nan where no input had the opposite behaviour."""
    return moved(before, after, target).mean().to_dict()


def outcomes(before: pd.DataFrame, after: pd.DataFrame, target: int, method: str) -> pd.DataFrame:
    """Rows of ``outcomes.parquet`` for one method and target: every input, whatever its behaviour was."""
    frame = pd.DataFrame({"input": before.index, "method": method, "target": target})
    for name in ("behavior", "log_odds"):
        frame[f"{name}_before"] = before[name].to_numpy()
        frame[f"{name}_after"] = after[name].loc[before.index].to_numpy()
    return frame


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
    for (method, target), everything in result.groupby(["method", "target"], sort=False):
        own = everything[everything.behavior_before == -target]
        if own.empty:
            continue
        measures = {
            "to_target": own.behavior_after == target,
            "to_other": own.behavior_after == OTHER,
            "wrong_way": (own.log_odds_after - own.log_odds_before) * target < 0,
        }
        for name, happened in measures.items():
            estimate = statistics.clustered_mean(
                happened.to_numpy(dtype=float), own.group.to_numpy(), rng, n_resamples=n_resamples
            )
            rows.append({"method": method, "target": target, "measure": name, **estimate._asdict()})
    return pd.DataFrame(rows)


def shares(result: pd.DataFrame) -> pd.DataFrame:
    """What inputs of the opposite behaviour become: `method, target` (name)`, behavior, share, n`."""
    own = result[result.behavior_before == -result.target]
    rows = []
    for (method, target), some in own.groupby(["method", "target"], sort=False):
        for name, share in behavior.rates(some.behavior_after).items():
            rows.append({"method": method, "target": NAMES[target], "behavior": name, "share": share, "n": len(some)})
    return pd.DataFrame(rows)


def net_effect(
    result: pd.DataFrame, methods: Sequence[str], rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Share that reaches the target under a method minus that under its control, paired by input.

    Returns
    -------
    pandas.DataFrame
        `method, target, value, low, high, n`.
    """
    rows = []
    own = result[result.behavior_before == -result.target]
    own = own.assign(hit=(own.behavior_after == own.target).astype(float))
    for method in methods:
        for target in TARGETS:
            some = own[own.target == target]
            hits = some[some.method == method].set_index("input")
            control = some[some.method == f"{method}: random control"].groupby("input").hit.mean()
            if hits.empty:
                continue
            difference = statistics.paired_difference(
                hits.hit.to_numpy(), control[hits.index].to_numpy(), hits.group.to_numpy(), rng, n_resamples
            )
            rows.append({"method": method, "target": target, **difference._asdict()})
    return pd.DataFrame(rows)


def mean_log_odds(
    before: pd.DataFrame,
    after: pd.DataFrame,
    target: int,
    groups: pd.Series,
    rng: np.random.Generator,
    n_resamples: int,
) -> dict[str, float]:
    """The mean log-odds (nats) after a shift, over the inputs of the opposite behaviour: `log_odds, low, high, n`."""
    chosen = before.index[before.behavior == -target]
    estimate = statistics.clustered_mean(
        after.log_odds[chosen].to_numpy(), groups[chosen].to_numpy(), rng, n_resamples=n_resamples
    )
    return {"log_odds": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
