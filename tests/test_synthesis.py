"""The seeds together: headline numbers, intervals, and verdicts that the numbers alone decide."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from memgen import synthesis
from memgen.synthesis import Condition

# Numbers with which every claim holds; a list has one value for each seed.
HOLDING = {
    "memorized_only_accuracy": [0.99, 0.98, 1.0],
    "inferred_only_accuracy": [1.0, 0.99, 0.99],
    "conflict_memorization": [0.5, 0.52, 0.48],
    "conflict_generalization": [0.48, 0.46, 0.5],
    "conflict_other": [0.02, 0.02, 0.02],
    "flip_rate": [0.1, 0.12, 0.11],
    "mean_abs_nmd_resid_post_layer0": [0.1, 0.1, 0.1],
    "chance_abs_nmd_resid_post_layer0": [0.09, 0.1, 0.08],
    "mean_abs_nmd_resid_post_layer10": [0.9, 0.8, 1.0],
    "chance_abs_nmd_resid_post_layer10": [0.2, 0.2, 0.2],
    "mean_abs_nmd_resid_post_layer9": [0.5, 0.5, 0.5],
    "chance_abs_nmd_resid_post_layer9": [0.25, 0.25, 0.25],
    "mean_abs_nmd_mlp_out_layer11": [5.0, 5.0, 5.0],
    "patching_resid_post_layer0_to_generalization": [0.01, 0.0, 0.02],
    "patching_resid_post_layer0_to_memorization": [0.0, 0.01, 0.0],
    "accuracy_flip_pairs": [0.97, 0.96, 0.98],
    "baseline_flip_pairs": [0.8, 0.82, 0.84],
    "accuracy_all_conflicts": [0.95, 0.95, 0.95],
    "baseline_all_conflicts": [0.6, 0.6, 0.6],
    "gain_all_conflicts": [0.35, 0.35, 0.35],
    "ablation_none_inferred_only": [1.0, 1.0, 0.99],
    "ablation_attribution_inferred_only": [0.99, 1.0, 0.98],
}
METHODS = ("study", "gradient-guided", "gradient-guided_MLP", "gradient-guided_MLP_10%")
for method in METHODS:
    for target, rate in (("generalization", 0.9), ("memorization", 0.95)):
        HOLDING[f"to_target_{target}_{method}_all"] = [rate, rate + 0.01, rate - 0.01]
        HOLDING[f"net_{target}_{method}"] = [rate - 0.03, rate - 0.01, rate - 0.05]
for target in ("generalization", "memorization"):
    HOLDING[f"to_target_{target}_fitted_on_random_neurons_all"] = [0.3, 0.2, 0.4]
    for size, share in (("top10", 0.5), ("random10", 0.02), ("all", 0.6)):
        HOLDING[f"patched_{size}_mlp.hook_post_to_{target}"] = [share, share + 0.01, share - 0.01]


def frame(changed=(), task="inference", n_seeds=3):
    """Metrics as the notebook reads them; `changed`: a value a seed, one for all, None if not recorded."""
    numbers = HOLDING | dict(changed)
    rows = [
        {"task": task, "model": "gpt2-3x64", "seed": seed, "name": name, "value": value, "unit": "share 0-1"}
        for name, values in numbers.items()
        if values is not None
        for seed, value in enumerate(np.broadcast_to(values, 3)[:n_seeds])
    ]
    return pd.DataFrame(rows).assign(run=lambda f: f.task + " (" + f.model + ")")


# --- one condition


@pytest.mark.parametrize(
    ("values", "bar", "above", "met"),
    [
        ([0.9, 0.9, 0.9], 0.8, True, True),
        ([0.7, 0.9, 1.1], 0.8, True, False),  # the mean is above, the lower end is not
        ([0.9, 0.9, 0.9], 0.9, True, False),  # as good as the bar is not above it
        ([0.1, 0.1, 0.1], 0.2, False, True),
        ([0.0, 0.1, 0.4], 0.2, False, False),  # the mean is below, the upper end is not
        ([0.2, 0.2, 0.2], 0.2, False, False),
        ([0.81], 0.8, True, True),  # one seed: the mean decides
        ([0.79], 0.8, True, False),
        ([0.19], 0.2, False, True),
        ([0.21], 0.2, False, False),
        ([np.nan], 0.0, True, False),
        ([np.nan], 1.0, False, False),
    ],
)
def test_condition_uses_the_ends_of_the_interval(values, bar, above, met):
    assert Condition("x", np.array(values), bar, above).met is met


def test_condition_in_words():
    three = Condition("accuracy on flip pairs", np.array([0.9, 0.95, 1.0]), 0.92)
    low, high = scipy.stats.t.interval(0.95, 2, loc=0.95, scale=0.05 / np.sqrt(3))
    assert str(three) == f"accuracy on flip pairs 0.95 [{low:.2f}, {high:.2f}] (not met: > 0.92)"
    one = Condition("patching", np.array([0.05]), 0.1, above=False)
    assert str(one) == "patching 0.05 (met: < 0.1)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.9, 0.9], "holds"),
        ([0.9, 0.1], "holds in part"),
        ([0.1, 0.9], "holds in part"),
        ([0.1, 0.1], "does not hold"),
    ],
)
def test_verdict(values, expected):
    assert synthesis.verdict([Condition("x", np.array([value]), 0.5) for value in values]) == expected


# --- the claims


def test_every_claim_can_hold():
    table = synthesis.claims(frame())
    assert list(table) == ["claim", "study", "task", "ours", "control", "verdict"]
    assert [claim[0] for claim in table.claim] == ["0", "a", "b", *"c" * len(METHODS), "d"]
    assert set(table.verdict) == {"holds"}
    assert "not met" not in " ".join(table.ours)
    assert table.notna().all(axis=None)


NOTHING = dict.fromkeys(HOLDING, 0.0) | {
    "patching_resid_post_layer0_to_generalization": 1.0,
    "ablation_none_inferred_only": 1.0,
}


def test_every_claim_can_fail():
    table = synthesis.claims(frame(NOTHING))
    assert set(table.verdict) == {"does not hold"}
    assert "(met" not in " ".join(table.ours)


def test_what_was_not_measured_does_not_hold():
    """Where no input showed a behaviour, steering and prediction record nothing."""
    unmeasured = ("to_target", "net", "accuracy", "baseline", "gain")
    missing = {name: None for name in HOLDING if name.startswith(unmeasured)}
    table = synthesis.claims(frame(missing))
    assert table.verdict.tolist() == ["holds", "holds", *["does not hold"] * (1 + len(METHODS)), "holds in part"]
    empty = synthesis.claims(frame(dict.fromkeys(missing, np.nan)))
    assert empty.verdict.tolist() == table.verdict.tolist()


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"memorized_only_accuracy": 0.9}, "0"),
        ({"inferred_only_accuracy": [1.0, 1.0, 0.8]}, "0"),
        ({"conflict_generalization": 0.05}, "0"),
        ({"conflict_memorization": 0.05}, "0"),
        ({"chance_abs_nmd_resid_post_layer10": 0.95, "chance_abs_nmd_resid_post_layer0": 0.9}, "a"),
        ({"mean_abs_nmd_resid_post_layer0": 2.0}, "a"),
        ({"patching_resid_post_layer0_to_generalization": 0.5}, "a"),
        ({"patching_resid_post_layer0_to_memorization": 0.5}, "a"),
        ({"accuracy_flip_pairs": 0.9}, "b"),
        ({"accuracy_flip_pairs": [0.8, 1.0, 1.0]}, "b"),  # the interval: below .92
        ({"accuracy_all_conflicts": 0.9}, "b"),
        ({"gain_all_conflicts": 0.1}, "b"),
        ({"to_target_generalization_study_all": 0.8}, "c: the study's shift"),
        ({"to_target_memorization_study_all": 0.85}, "c: the study's shift"),
        ({"net_generalization_study": [0.5, -0.5, 0.5]}, "c: the study's shift"),
        ({"net_memorization_gradient-guided": -0.1}, "c: a fitted shift of the residual stream"),
        ({"to_target_memorization_gradient-guided_MLP_all": 0.85}, "c: a fitted shift of MLP neurons"),
        (
            {"to_target_generalization_gradient-guided_MLP_10%_all": 0.8},
            "c: a fitted shift of a tenth of the MLP neurons",
        ),
        ({f"to_target_{t}_fitted_on_random_neurons_all": 0.9 for t in ("memorization", "generalization")}, "d"),
        ({f"patched_top10_mlp.hook_post_to_{t}": 0.2 for t in ("memorization", "generalization")}, "d"),
        ({"ablation_attribution_inferred_only": 0.7}, "d"),
    ],
)
def test_a_missed_condition_makes_its_claim_hold_in_part(changed, claim):
    table = synthesis.claims(frame(changed))
    is_claim = table.claim.str.startswith(claim[0]) & table.claim.str.endswith(claim[1:])
    assert is_claim.sum() == 1
    assert table.verdict.tolist() == np.where(is_claim, "holds in part", "holds").tolist()
    assert table[is_claim].ours.str.count("not met").item() == 1


def test_one_seed_has_no_interval():
    table = synthesis.claims(frame(n_seeds=1))
    assert set(table.verdict) == {"holds"}
    assert not table.ours.str.contains(r"\[").any()
    three = synthesis.claims(frame())
    assert three.ours.str.contains(r"\[").all()


def test_claims_of_several_runs_stand_together():
    chance = {
        "accuracy_flip_pairs": 0.5,
        "baseline_flip_pairs": 0.6,
        "accuracy_all_conflicts": 0.5,
        "gain_all_conflicts": 0,
    }
    both = pd.concat([frame(), frame(chance, "addition")])
    table = synthesis.claims(both.reset_index(drop=True))
    assert table.task.tolist() == ["inference (gpt2-3x64)", "addition (gpt2-3x64)"] * (4 + len(METHODS))
    own = table[table.claim.str.startswith("b")]
    assert own.verdict.tolist() == ["holds", "does not hold"]
    assert own.control.tolist()[1].startswith("best input-only baseline: 0.60 [0.60, 0.60] on flip pairs, ")


# --- the numbers beside them


def test_headline_keeps_every_seed_in_the_stated_order():
    both = pd.concat([frame(task="addition"), frame()], ignore_index=True)
    table = synthesis.headline(both.sample(frac=1, random_state=0))
    assert list(table) == ["task", "measure", "seed", "value", "unit"]
    own = table[table.task == "addition (gpt2-3x64)"]
    assert len(table) == 2 * len(own)
    assert list(dict.fromkeys(own.measure)) == list(synthesis.HEADLINE.values())
    values = own[own.measure == "variants that flip"]
    assert values[["seed", "value"]].to_numpy().tolist() == [[0, 0.1], [1, 0.12], [2, 0.11]]
    without = synthesis.headline(frame({"flip_rate": None}))
    assert "variants that flip" not in set(without.measure)


def test_over_seeds():
    table = synthesis.over_seeds(synthesis.headline(frame()))
    assert list(table) == ["task", "measure", "value", "low", "high", "n", "unit"]
    row = table[table.measure == "variants that flip"].iloc[0]
    values = [0.1, 0.12, 0.11]
    low, high = scipy.stats.t.interval(0.95, 2, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (row.value, row.low, row.high) == pytest.approx((0.11, low, high))
    assert (row.n, row.unit, row.task) == (3, "share 0-1", "inference (gpt2-3x64)")
    one = synthesis.over_seeds(synthesis.headline(frame(n_seeds=1)))
    assert one[["low", "high"]].isna().all(axis=None)
    assert (one.n == 1).all()


def test_a_run_is_called_by_its_task_unless_that_has_several_models():
    metrics = pd.DataFrame({"task": ["a", "a", "b", "b"], "model": ["x", "x", "x", "y"]})
    assert synthesis.run_names(metrics).tolist() == ["a", "a", "b (x)", "b (y)"]


def test_equal_evidence_is_one_row_whatever_the_seeds_call_it():
    """Seeds may differ in the evidence at which the model is most divided; of sums it is the middle shares."""
    numbers = long({"gain_evidence_2": (0.2, 0.3), "to_target_memorization_study_all": (0.1, 0.1)})
    other = long({"gain_evidence_1": (0.1,)}).assign(seed=2)
    sums = long({"gain_middle_shares": (0.0, 0.0)}).assign(run="sums")
    table = synthesis.reach(pd.concat([numbers, other, sums], ignore_index=True))
    own = table[table.measure == "the same where the input leaves it open"].set_index("task")
    assert own.loc["r", ["value", "n", "reached"]].tolist() == [pytest.approx(0.2), 3, True]
    assert own.loc["sums", ["value", "n", "reached"]].tolist() == [0.0, 2, False]


def test_depth_is_the_ratio_to_chance_by_layer():
    table = synthesis.depth(frame())
    assert list(table) == ["task", "seed", "layer", "ratio"]
    own = table[table.seed == 0]
    assert own.layer.tolist() == [0, 9, 10]  # numbers, not text: layer 10 comes last
    assert own.ratio.tolist() == pytest.approx([0.1 / 0.09, 2.0, 4.5])
    assert set(table.task) == {"inference (gpt2-3x64)"}
    assert len(table) == 9
    nothing = synthesis.depth(frame().query("name == 'flip_rate'"))
    assert nothing.empty
    assert list(nothing) == list(table)


def long(numbers):
    """Metrics of one run from name -> a value for each seed."""
    rows = [
        {"run": "r", "seed": seed, "name": name, "value": value, "unit": "share 0-1"}
        for name, values in numbers.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


STEERED = {
    "to_target_memorization_study_all": (0.2, 0.4, 0.3),
    "net_memorization_study": (0.1, 0.35, 0.2),
    "to_target_memorization_gradient-guided_all": (0.9, 1.0, 1.0),
    "net_memorization_gradient-guided": (0.8, 0.8, 0.8),
    "to_target_memorization_shuffled_NMD_all": (0.0, 0.1, 0.0),
    "to_target_memorization_study_flip_pairs": (0.5, 0.5, 0.5),
}


def test_steering_rates_stand_beside_their_best_control():
    table = synthesis.steering_rates(long(STEERED)).set_index("method")
    assert table.value.to_dict() == pytest.approx(
        {"the study's shift": 0.3, "its formula, shuffled labels": 0.1 / 3, "fitted, residual stream": 2.9 / 3}
    )
    assert table.control["the study's shift"] == pytest.approx(0.3 - 0.65 / 3)
    assert table.high["fitted, residual stream"] == 1.0
    assert (table.n == 3).all()
    assert table.loc["its formula, shuffled labels", ["control", "net", "p_value", "q_value"]].isna().all()


def test_net_effects_are_tested_and_corrected():
    table = synthesis.steering_rates(long(STEERED)).set_index("method")
    p = scipy.stats.ttest_1samp(STEERED["net_memorization_study"], 0.0).pvalue
    assert table.p_value["the study's shift"] == pytest.approx(p)
    assert table.p_value["fitted, residual stream"] == 0.0  # the same in every seed
    known = table.dropna(subset="p_value")
    expected = scipy.stats.false_discovery_control(known.p_value)
    assert known.q_value.to_numpy() == pytest.approx(expected)
    one = long({name: values[:1] for name, values in STEERED.items()})
    assert synthesis.steering_rates(one)[["p_value", "q_value"]].isna().all(axis=None)


def test_the_best_control_is_what_the_net_effect_was_measured_against():
    told = synthesis.with_controls(long(STEERED))
    own = told[told.name == "control_memorization_study"].set_index("seed").value
    assert own.to_list() == pytest.approx([0.1, 0.05, 0.1])
    assert len(told) == len(STEERED) * 3 + 2 * 3


REACHED = {
    "memorized_only_accuracy": (1.0, 0.97, 0.99),
    "to_target_memorization_gradient-guided_MLP_all": (0.99, 0.95, 0.97),
    "net_memorization_gradient-guided_MLP": (0.9, 0.9, 0.95),
    "to_target_generalization_gradient-guided_MLP_all": (1.0, 0.8, 1.0),
    "net_generalization_gradient-guided_MLP": (0.9, 0.8, 0.7),
}


def test_reach_counts_the_worse_side_of_each_seed():
    table = synthesis.reach(long(REACHED)).set_index("measure")
    assert table.value["memorized-only accuracy"] == pytest.approx(0.96 + 0.08 / 3)
    assert table.reached["memorized-only accuracy"]
    control = table.loc["best control of equal norm"]
    assert control.value == pytest.approx((0.1 + 0.05 + 0.3) / 3)
    assert not control.reached
    assert table.reached["to memorization"]
    to_generalization = table.loc["to generalization"]
    assert to_generalization.value > 0.9
    assert to_generalization.low < 0.837
    assert not to_generalization.reached  # the interval decides, too


def test_reach_says_what_was_not_measured():
    table = synthesis.reach(long(REACHED)).set_index("measure")
    assert table.n["worst answer"] == 0
    assert np.isnan(table.value["worst answer"])
    assert not table.reached["worst answer"]
