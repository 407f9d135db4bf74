"""A verdict on each claim of the study.

The bars are the study's own numbers, or what its claim says in words; they stand here, in one place, and were written
before the results.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from memgen import statistics

#: The interventions on which claim c is tried.
STEERED_BY = {
    "study": "the study's shift",
    "gradient-guided": "a fitted shift of the residual stream",
    "gradient-guided_MLP": "a fitted shift of MLP neurons",
    "gradient-guided_MLP_10%": "a fitted shift of a tenth of the MLP neurons",
}
MLP = "mlp.hook_post"


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

    def shown(values: np.ndarray) -> str:
        value, low, high, _ = statistics.over_seeds(values)
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
            f"conflicts answered by neither: {shown(seeds('conflict_other'))}",
        ),
        (
            "a. Neurons differ, near zero early and growing with depth",
            "heat maps (no number)",
            [
                Condition("|NMD| above chance, last layer", excess[last], 0.0),
                Condition("and more than in the first layer", excess[last] - excess[0], 0.0),
                Condition("patching the first layer turns", first.to_numpy(), 0.1, above=False),
            ],
            f"chance level of |NMD|, last layer: {shown(seeds(f'chance_abs_nmd_resid_post_layer{last}'))}",
        ),
        (
            "b. Hidden states predict the behaviour",
            "> 92 %",
            [
                Condition("accuracy on flip pairs", seeds("accuracy_flip_pairs"), 0.92),
                Condition("accuracy on all conflicts", seeds("accuracy_all_conflicts"), 0.92),
                Condition("and there above the best input-only baseline", seeds("gain_all_conflicts"), 0.15),
            ],
            f"best input-only baseline: {shown(seeds('baseline_flip_pairs'))} on flip pairs, "
            f"{shown(seeds('baseline_all_conflicts'))} on all conflicts",
        ),
    ]
    for method, name in STEERED_BY.items():
        rate = f"to_target_{{}}_{method}_all"
        net = {target: seeds(f"net_{target}_{method}") for target in ("generalization", "memorization")}
        control = {target: seeds(rate.format(target)) - own for target, own in net.items()}
        result.append(
            (
                f"c. The behaviour can be steered: {name}",
                "83.7 % to generalization, 89.9 % to memorization",
                [
                    Condition("to generalization", seeds(rate.format("generalization")), 0.837),
                    Condition("to memorization", seeds(rate.format("memorization")), 0.899),
                    Condition("more than the best control, to generalization", net["generalization"], 0.0),
                    Condition("and to memorization", net["memorization"], 0.0),
                ],
                f"best control of the same norm: {shown(control['generalization'])} to generalization, "
                f"{shown(control['memorization'])} to memorization",
            )
        )
    # d: what the study's title says, against the view that memorization is distributed and built on the generalizing
    # circuit (arXiv 2507.04782).
    patched = {size: _mean_of_both(seeds, f"patched_{size}_{MLP}_to_{{}}") for size in ("top10", "random10", "all")}
    chosen, drawn = (
        _mean_of_both(seeds, f"to_target_{{}}_{method}_all")
        for method in ("gradient-guided_MLP_10%", "fitted_on_random_neurons")
    )
    ablated = seeds("ablation_none_inferred_only") - seeds("ablation_attribution_inferred_only")
    result.append(
        (
            "d. Distinct neurons carry it, and not the generalizing circuit at large",
            "neuron-level differentiation (no number)",
            [
                Condition("of what all MLP neurons turn when patched, the top tenth turns", _ratio(patched), 0.5),
                Condition("a shift of chosen neurons minus one of random ones", chosen - drawn, 0.1),
                Condition("without the top tenth, inference alone loses", ablated, 0.05, above=False),
            ],
            f"a random tenth, patched, turns {shown(patched['random10'])} (the top tenth {shown(patched['top10'])}); "
            f"a shift fitted on random neurons moves {shown(drawn)}",
        )
    )
    return result


def _mean_of_both(seeds: Callable[[str], np.ndarray], pattern: str) -> np.ndarray:
    """A metric of every seed, the mean of both directions."""
    return np.mean([seeds(pattern.format(target)) for target in ("generalization", "memorization")], axis=0)


def _ratio(patched: Mapping[str, np.ndarray]) -> np.ndarray:
    """What the top tenth turns as a share of what all neurons turn; 0 where these turn nothing."""
    return np.divide(patched["top10"], patched["all"], out=np.zeros_like(patched["all"]), where=patched["all"] > 0)
