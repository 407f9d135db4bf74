"""The numbers of all runs over seeds: headline numbers, and every method of steering beside its best control."""

from collections.abc import Sequence

import pandas as pd

from memgen import intervals
from memgen.synthesis.verdicts import lost, on_test_groups

STEERED = "measure == 'net' and population == 'conflicts'"
WORST = "measure == 'worst_answer' and method == 'fitted_mlp'"
NO_CONTROLS = ("best", "uniform")  # the best of the controls once more, and the study's random baseline
#: Headline number -> the query that selects it from the metrics.
HEADLINE = {
    "memorized-only accuracy": "stage == 'training' and measure == 'accuracy' and inputs == 'memorized_only'",
    "inferred-only accuracy": "stage == 'training' and measure == 'accuracy' and inputs == 'inferred_only'",
    "aligned accuracy": "stage == 'training' and measure == 'accuracy' and inputs == 'aligned'",
    "conflicts answered from memory": "measure == 'behavior_share' and behavior == 'memorization'",
    "conflicts answered by inference": "measure == 'behavior_share' and behavior == 'generalization'",
    "conflicts answered by neither": "measure == 'behavior_share' and behavior == 'other'",
    "variants that flip": "measure == 'flip_rate'",
    "prediction, conflicts": "stage == 'prediction' and measure == 'accuracy' and population == 'conflicts'",
    "best predictor without states, conflicts": "measure == 'best_baseline_accuracy' and population == 'conflicts'",
    "prediction, flip pairs": "stage == 'prediction' and measure == 'accuracy' and population == 'flip_pairs'",
    "best predictor without states, flip pairs": "measure == 'best_baseline_accuracy' and population == 'flip_pairs'",
    "study's shift to generalization, net": f"{STEERED} and method == 'study' and target == 'generalization'",
    "study's shift to memorization, net": f"{STEERED} and method == 'study' and target == 'memorization'",
    "fitted MLP shift to generalization, net": f"{STEERED} and method == 'fitted_mlp' and target == 'generalization'",
    "fitted MLP shift to memorization, net": f"{STEERED} and method == 'fitted_mlp' and target == 'memorization'",
    "its worst answer, to generalization": f"{WORST} and target == 'generalization'",
    "its worst answer, to memorization": f"{WORST} and target == 'memorization'",
}


def headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The metrics on test groups that `HEADLINE` selects, in its order, with the name of each in `quantity`."""
    metrics = on_test_groups(metrics)
    return pd.concat(
        [metrics.query(query).assign(quantity=name) for name, query in HEADLINE.items()], ignore_index=True
    )


def over_seeds(numbers: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """The mean of each headline number over seeds: `keys, quantity, value, ci_low, ci_high, n`."""
    rows = []
    for key, part in numbers.groupby([*keys, "quantity"], sort=False):
        bounds = (-1.0, 1.0) if part.measure.iloc[0] == "net" else (0.0, 1.0)
        rows.append([*key, *intervals.over_seeds(part.value, bounds)])
    return pd.DataFrame(rows, columns=[*keys, "quantity", *intervals.Estimate._fields])


def steering_rates(metrics: pd.DataFrame) -> pd.DataFrame:
    """Every method of steering over seeds, on test conflicts.

    `task, base_task, model, method, target, value, ci_low, ci_high, n` (share that reaches the target), `control`
    (under the best control of each seed), `net, net_low, net_high, strongest` (the control that reaches most on average
    over seeds) and `lost` (accuracy on inputs with one right answer, the worst kind).
    """
    keys = ["task", "base_task", "model", "method", "target"]
    metrics = on_test_groups(metrics)
    conflicts = metrics.query("population == 'conflicts'")
    table = intervals.seeds_by(conflicts.query("measure == 'reached' and control.isna()"), keys)
    net = intervals.seeds_by(conflicts.query("measure == 'net'"), keys, bounds=(-1.0, 1.0)).drop(columns="n")
    net = net.rename(columns={"value": "net", "ci_low": "net_low", "ci_high": "net_high"})
    table = table.merge(net, on=keys, how="left")
    table.insert(table.columns.get_loc("net"), "control", table.value - table.net)
    reached = conflicts.query("measure == 'reached' and control.notna() and control not in @NO_CONTROLS")
    reached = reached.groupby([*keys, "control"], sort=False).value.mean().reset_index()
    strongest = reached.loc[reached.groupby(keys, sort=False).value.idxmax()].drop(columns="value")
    table = table.merge(strongest.rename(columns={"control": "strongest"}), on=keys, how="left")
    runs = dict(list(metrics.groupby(["task", "model"])))
    table["lost"] = [lost(runs[row.task, row.model], row.target, row.method).mean() for row in table.itertuples()]
    return table
