"""The numbers of all runs together: means over seeds, and what was to be reached."""

import numpy as np
import pandas as pd
from scipy import stats

from memgen import statistics

TARGETS = ("generalization", "memorization")
#: The intervention that is measured against what was to be reached, and its small form.
BEST, BEST_SMALL = "gradient-guided_MLP", "gradient-guided_MLP_10%"

#: Metric -> how it is called in the headline table.
HEADLINE = {
    "memorized_only_accuracy": "memorized-only accuracy",
    "inferred_only_accuracy": "inferred-only accuracy",
    "conflict_memorization": "conflicts answered from memory",
    "conflict_other": "conflicts answered by neither",
    "flip_rate": "variants that flip",
    "accuracy_flip_pairs": "prediction, flip pairs",
    "baseline_flip_pairs": "best input-only baseline, flip pairs",
    "accuracy_all_conflicts": "prediction, all conflicts",
    "baseline_all_conflicts": "best input-only baseline, all conflicts",
    "net_generalization_study": "study's shift to generalization, net",
    "net_memorization_study": "study's shift to memorization, net",
    f"net_generalization_{BEST}": "fitted MLP shift to generalization, net",
    f"net_memorization_{BEST}": "fitted MLP shift to memorization, net",
    f"net_generalization_{BEST_SMALL}": "tenth of the MLP to generalization, net",
    f"net_memorization_{BEST_SMALL}": "tenth of the MLP to memorization, net",
}

#: How the methods of steering are called, by their part of the metrics' names.
METHODS = {
    "study": "the study's shift",
    "shuffled_NMD": "its formula, shuffled labels",
    "difference_in_means": "difference in means",
    "gradient-guided": "fitted, residual stream",
    "gradient-guided_MLP": "fitted, MLP neurons",
    "gradient-guided_MLP_10%": "fitted, a tenth of them",
    "fitted_on_random_neurons": "fitted, a random tenth",
}

# What was to be reached: row, metrics (the worst of them counts), the bar for the mean over seeds, whether the mean is
# to lie above it, and the bar for the interval's lower end.
REACH = (
    ("memorized-only accuracy", ("memorized_only_accuracy",), 0.98, True, None),
    ("inferred-only accuracy", ("inferred_only_accuracy",), 0.98, True, None),
    ("to generalization", (f"to_target_generalization_{BEST}_all",), 0.90, True, 0.837),
    ("to memorization", (f"to_target_memorization_{BEST}_all",), 0.93, True, 0.899),
    ("other answers", tuple(f"to_other_{target}_{BEST}_all" for target in TARGETS), 0.03, False, None),
    (
        "accuracy lost where the behaviour is needed",
        (f"loss_inferred_only_generalization_{BEST}", f"loss_memorized_only_memorization_{BEST}"),
        0.01,
        False,
        None,
    ),
    ("worst answer", tuple(f"worst_answer_{target}_{BEST}" for target in TARGETS), 0.75, True, None),
    ("worst tenth of the groups", tuple(f"worst_groups_{target}_{BEST}" for target in TARGETS), 0.75, True, None),
    ("a tenth of the neurons, to generalization", (f"to_target_generalization_{BEST_SMALL}_all",), 0.837, True, None),
    ("a tenth of the neurons, to memorization", (f"to_target_memorization_{BEST_SMALL}_all",), 0.899, True, None),
    ("best control of equal norm", tuple(f"control_{target}_{BEST}" for target in TARGETS), 0.10, False, None),
    ("prediction, all conflicts", ("accuracy_all_conflicts",), 0.92, True, None),
    ("and above the best input-only baseline", ("gain_all_conflicts",), 0.15, True, None),
    ("the same where the input leaves it open", ("gain_open",), 0.15, True, None),
)


def run_names(metrics: pd.DataFrame) -> pd.Series:
    """What each row's run is called: its task, and its model where the task has several."""
    several = metrics.groupby("task").model.transform("nunique") > 1
    return metrics.task.where(~several, metrics.task + " (" + metrics.model + ")")


def with_controls(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics, and for each net effect the rate of the best control, ``control_<target>_<method>``.

    Parameters
    ----------
    metrics
        `run, seed, name, value` and further columns.
    """
    net = metrics[metrics.name.str.fullmatch("net_(generalization|memorization)_.*")]
    rate = net.assign(name=net.name.str.replace("net_", "to_target_", n=1) + "_all")
    keys = ["run", "seed", "name"]
    rate = rate.merge(metrics[[*keys, "value"]], on=keys, suffixes=("_net", ""))
    control = rate.assign(
        name=rate.name.str.replace("to_target_", "control_", n=1).str.removesuffix("_all"),
        value=rate.value - rate.value_net,
        unit="share 0-1",
    )
    return pd.concat([metrics, control.drop(columns="value_net")], ignore_index=True)


def headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The headline numbers of every seed: `task, measure, seed, value, unit`, in the order of `HEADLINE`."""
    own = metrics[metrics.name.isin(HEADLINE)].copy()
    own["measure"] = pd.Categorical(own.name.map(HEADLINE), categories=list(HEADLINE.values()))
    own["place"] = pd.factorize(own.run)[0]
    own = own.sort_values(["place", "measure", "seed"])
    own["measure"] = own.measure.astype(str)
    return own.assign(task=own.run)[["task", "measure", "seed", "value", "unit"]].reset_index(drop=True)


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % interval over seeds, of shares cut at 0 and 1: `task, measure, value, low, high, n, unit`."""
    rows = []
    for (task, measure, unit), own in frame.groupby(["task", "measure", "unit"], sort=False):
        estimate = statistics.over_seeds(own.value.to_numpy())
        rows.append({"task": task, "measure": measure, **estimate._asdict(), "unit": unit})
    table = pd.DataFrame(rows)
    is_share = table.unit.str.endswith("0-1")
    return table.assign(
        low=table.low.where(~is_share, table.low.clip(lower=0)),
        high=table.high.where(~is_share, table.high.clip(upper=1)),
    )


def reach(metrics: pd.DataFrame) -> pd.DataFrame:
    """What was to be reached, and what was: `task, measure, bar, value, low, high, n, reached`.

    Where a row has several metrics, the worst of them counts in every seed. Value and interval are over seeds; a row
    without a number was not measured, as where no input showed a behaviour.
    """
    rows = []
    # The population of equal evidence is called after the evidence, or after the shares of training texts.
    named = metrics.name.str.replace(r"^gain_(evidence_\d+|middle_shares)$", "gain_open", regex=True)
    for run, own in with_controls(metrics.assign(name=named)).groupby("run", sort=False):
        table = own.pivot_table(index="seed", columns="name", values="value")
        for measure, names, bar, above, lowest in REACH:
            known = table.reindex(columns=list(names))
            worst = (known.min(axis=1) if above else known.max(axis=1))[known.notna().all(axis=1)]
            estimate = statistics.over_seeds(worst.to_numpy())
            reached = estimate.value >= bar if above else estimate.value <= bar
            if lowest is not None and not np.isnan(estimate.low):
                reached = reached and estimate.low >= lowest
            sign = "\u2265" if above else "\u2264"
            wanted = f"{sign} {bar:g}" + ("" if lowest is None else f", interval from {lowest:g}")
            rows.append(
                {"task": run, "measure": measure, "bar": wanted, **estimate._asdict(), "reached": bool(reached)}
            )
    return pd.DataFrame(rows)


def steering_rates(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rates over seeds of every method beside its best control.

    Returns
    -------
    pandas.DataFrame
        `task, method, target, value, low, high, n` (share of all conflict inputs of the opposite behaviour that reach
        the target), `control, net, net_low, net_high` (means over seeds, and the interval of the net effect), `p_value`
        (t-test of the net effect over seeds), `q_value` (Benjamini-Hochberg over the table); nan where there is no
        control, or a single seed.
    """
    rows = []
    for task, own in with_controls(metrics).groupby("run", sort=False):
        table = own.pivot_table(index="seed", columns="name", values="value")
        for method, shown in METHODS.items():
            for target in TARGETS:
                names = [f"to_target_{target}_{method}_all", f"control_{target}_{method}", f"net_{target}_{method}"]
                rate, control, net = (table[name].dropna() if name in table else table.iloc[:0, 0] for name in names)
                if rate.empty:
                    continue
                row = {"task": task, "method": shown, "target": target, **statistics.over_seeds(rate)._asdict()}
                effect = statistics.over_seeds(net)
                row |= {"control": control.mean(), "net": effect.value, "net_low": effect.low, "net_high": effect.high}
                row["p_value"] = _p_value(net.to_numpy())
                rows.append(row)
    table = pd.DataFrame(rows)
    table["q_value"] = np.nan
    known = table.p_value.notna()
    if known.any():
        table.loc[known, "q_value"] = statistics.benjamini_hochberg(table.p_value[known].to_numpy())
    return table.assign(low=table.low.clip(lower=0), high=table.high.clip(upper=1))


def _p_value(values: np.ndarray) -> float:
    """Of a two-sided t-test against 0; nan with fewer than two values, 0 where all are the same other number."""
    if len(values) < 2:
        return np.nan
    if np.ptp(values) == 0:
        return float(values[0] == 0)
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def depth(metrics: pd.DataFrame, site: str = "resid_post") -> pd.DataFrame:
    """Mean |NMD| over its chance level by layer: `task, seed, layer, ratio`."""
    pattern = rf"(mean|chance)_abs_nmd_{site}_layer(\d+)"
    parts = metrics.name.str.extract(f"^{pattern}$")
    own = metrics.assign(what=parts[0], layer=parts[1]).dropna(subset=["what"])
    if own.empty:
        return pd.DataFrame(columns=["task", "seed", "layer", "ratio"])
    table = own.pivot_table(index=["run", "seed", "layer"], columns="what", values="value").reset_index()
    table["ratio"] = table["mean"] / table["chance"]
    table["layer"] = table.layer.astype(int)
    return table.rename(columns={"run": "task"})[["task", "seed", "layer", "ratio"]].sort_values(
        ["task", "seed", "layer"]
    )
