"""All runs of a profile together: headline numbers over seeds, and a verdict on each claim of the study.

The bars of the verdicts are the study's own numbers, or what its claim says in words; they stand here, in one place,
and were written before the results.
"""

import dataclasses

import numpy as np
import pandas as pd

from memgen import statistics

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
    "to_target_generalization_study_all": "study's shift to generalization",
    "to_target_generalization_study_random_control_all": "its random control to generalization",
    "to_target_memorization_study_all": "study's shift to memorization",
    "to_target_memorization_study_random_control_all": "its random control to memorization",
    "to_target_generalization_gradient-guided_all": "fitted shift to generalization",
    "to_target_generalization_gradient-guided_random_control_all": "its random control to generalization, fitted",
    "to_target_memorization_gradient-guided_all": "fitted shift to memorization",
    "to_target_memorization_gradient-guided_random_control_all": "its random control to memorization, fitted",
    "to_target_generalization_gradient-guided_MLP_all": "fitted MLP shift to generalization",
    "to_target_generalization_gradient-guided_MLP_random_control_all": "its random control to generalization, MLP",
    "to_target_memorization_gradient-guided_MLP_all": "fitted MLP shift to memorization",
    "to_target_memorization_gradient-guided_MLP_random_control_all": "its random control to memorization, MLP",
}


def headline(metrics: pd.DataFrame) -> pd.DataFrame:
    """The headline numbers of every seed: `task, measure, seed, value, unit`, in the order of `HEADLINE`."""
    own = metrics[metrics.name.isin(HEADLINE)].copy()
    own["measure"] = pd.Categorical(own.name.map(HEADLINE), categories=list(HEADLINE.values()))
    own = own.sort_values(["run", "measure", "seed"])
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


#: How the methods of steering are called in figures, and their part of the metrics' names.
METHODS = {
    "study": "the study's shift",
    "study_random_control": "its random control",
    "gradient-guided": "fitted, residual stream",
    "gradient-guided_random_control": "its random control, residual stream",
    "gradient-guided_MLP": "fitted, MLP neurons",
    "gradient-guided_MLP_random_control": "its random control, MLP neurons",
}


def steering_rates(metrics: pd.DataFrame, population: str = "all") -> pd.DataFrame:
    """Share that reaches the target over seeds: `task, method, target, value, low, high, n`."""
    rows = []
    for task, own in metrics.groupby("run", sort=False):
        for method, shown in METHODS.items():
            for target in ("generalization", "memorization"):
                values = own.value[own.name == f"to_target_{target}_{method}_{population}"]
                if len(values):
                    estimate = statistics.over_seeds(values.to_numpy())._asdict()
                    rows.append({"task": task, "method": shown, "target": target, **estimate})
    table = pd.DataFrame(rows)
    return table.assign(low=table.low.clip(lower=0), high=table.high.clip(upper=1))


def depth(metrics: pd.DataFrame, site: str = "resid_post") -> pd.DataFrame:
    """Mean |NMD| over its chance level by layer: `task, seed, layer, ratio`."""
    pattern = rf"(mean|chance)_abs_nmd_{site}_layer(\d+)"
    parts = metrics.name.str.extract(f"^{pattern}$")
    own = metrics.assign(what=parts[0], layer=parts[1]).dropna(subset=["what"])
    table = own.pivot_table(index=["run", "seed", "layer"], columns="what", values="value").reset_index()
    table["ratio"] = table["mean"] / table["chance"]
    table["layer"] = table.layer.astype(int)
    return table.rename(columns={"run": "task"})[["task", "seed", "layer", "ratio"]].sort_values(
        ["task", "seed", "layer"]
    )


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a claim asks for: the values of the seeds lie above `bar` (or below it, where `above` is False)."""

    what: str
    values: np.ndarray
    bar: float
    above: bool = True

    @property
    def estimate(self) -> statistics.Estimate:
        """The mean over seeds and its interval."""
        return statistics.over_seeds(self.values)

    @property
    def met(self) -> bool:
        """Whether the whole interval over seeds (with one seed, the mean) is on the right side of the bar."""
        value, low, high, _ = self.estimate
        if self.above:
            return bool((value if np.isnan(low) else low) > self.bar)
        return bool((value if np.isnan(high) else high) < self.bar)

    def __str__(self) -> str:
        value, low, high, _ = self.estimate
        interval = "" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]"
        sign = ">" if self.above else "<"
        return f"{self.what} {value:.2f}{interval} ({'met' if self.met else 'not met'}: {sign} {self.bar:g})"


def verdict(conditions: list[Condition]) -> str:
    """*holds* if all conditions are met, *does not hold* if none is, else *holds in part*."""
    met = [condition.met for condition in conditions]
    return "holds" if all(met) else "holds in part" if any(met) else "does not hold"


def claims(metrics: pd.DataFrame) -> pd.DataFrame:
    """The table of claims: `claim, study, task, ours, control, verdict`."""
    rows = []
    for run, own in metrics.groupby("run", sort=False):
        table = own.pivot_table(index="seed", columns="name", values="value")
        for claim, study, conditions, control in _claims(table):
            rows.append(
                {
                    "claim": claim,
                    "study": study,
                    "task": run,
                    "ours": "; ".join(map(str, conditions)),
                    "control": control,
                    "verdict": verdict(conditions),
                }
            )
    return pd.DataFrame(rows).sort_values("claim", kind="stable", ignore_index=True)


def _claims(table: pd.DataFrame) -> list[tuple[str, str, list[Condition], str]]:
    """Claim, the study's number, our conditions, the control; from one row a seed, one column a metric."""

    def seeds(name: str) -> np.ndarray:
        if name not in table:  # no input showed the opposite behaviour: nothing was moved
            return np.zeros(len(table))
        return table[name].fillna(0.0).to_numpy()

    def shown(name: str) -> str:
        value, low, high, _ = statistics.over_seeds(seeds(name))
        return f"{value:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")

    last = max(int(name.rsplit("layer", 1)[1]) for name in table if name.startswith("mean_abs_nmd_resid_post"))
    excess = {
        layer: seeds(f"mean_abs_nmd_resid_post_layer{layer}") - seeds(f"chance_abs_nmd_resid_post_layer{layer}")
        for layer in (0, last)
    }
    balance = np.minimum(seeds("conflict_memorization"), seeds("conflict_generalization"))
    first = np.maximum(
        *(table[f"patching_resid_post_layer0_to_{target}"] for target in ("memorization", "generalization"))
    )
    result = [
        (
            "0. The model shows both behaviours",
            "both (no number)",
            [
                Condition("memorized-only accuracy", seeds("memorized_only_accuracy"), 0.95),
                Condition("inferred-only accuracy", seeds("inferred_only_accuracy"), 0.95),
                Condition("rarer behaviour on conflicts", balance, 0.1),
            ],
            f"conflicts answered by neither: {shown('conflict_other')}",
        ),
        (
            "a. Neurons differ, near zero early and growing with depth",
            "heat maps (no number)",
            [
                Condition("|NMD| above chance, last layer", excess[last], 0.0),
                Condition("and more than in the first layer", excess[last] - excess[0], 0.0),
                Condition("patching the first layer turns", first.to_numpy(), 0.1, above=False),
            ],
            f"chance level of |NMD|, last layer: {shown(f'chance_abs_nmd_resid_post_layer{last}')}",
        ),
        (
            "b. Hidden states predict the behaviour",
            "> 92 %",
            [
                Condition("accuracy on flip pairs", seeds("accuracy_flip_pairs"), 0.92),
                Condition(
                    "minus the best input-only baseline",
                    seeds("accuracy_flip_pairs") - seeds("baseline_flip_pairs"),
                    0.0,
                ),
            ],
            f"best input-only baseline: {shown('baseline_flip_pairs')}",
        ),
    ]
    methods = {
        "study": "the study's shift",
        "gradient-guided": "a fitted shift of the residual stream",
        "gradient-guided_MLP": "a fitted shift of MLP neurons",
    }
    for method, name in methods.items():
        rate = f"to_target_{{}}_{method}_all"
        control = f"to_target_{{}}_{method}_random_control_all"
        result.append(
            (
                f"c. The behaviour can be steered: {name}",
                "83.7 % to generalization, 89.9 % to memorization",
                [
                    Condition("to generalization", seeds(rate.format("generalization")), 0.837),
                    Condition("to memorization", seeds(rate.format("memorization")), 0.899),
                    Condition("more than the control, to generalization", seeds(f"net_generalization_{method}"), 0.0),
                    Condition("and to memorization", seeds(f"net_memorization_{method}"), 0.0),
                ],
                f"random, same norm: {shown(control.format('generalization'))} to generalization, "
                f"{shown(control.format('memorization'))} to memorization",
            )
        )
    return result
