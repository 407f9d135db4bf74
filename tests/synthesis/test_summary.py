"""Numbers over seeds, beside estimators of another source."""

import numpy as np
import pandas as pd
import pytest

from memgen import intervals
from memgen.synthesis import summary
from tests.synthesis.runs import plant, run, without

STUDY = "method == 'study' and target == 'memorization' and population == 'conflicts'"


def test_headline_selects_every_seed_in_the_stated_order():
    both = pd.concat([run(range(4), task="inference"), run(range(4))], ignore_index=True)
    table = summary.headline(both.sample(frac=1, random_state=0))
    assert list(dict.fromkeys(table.quantity)) == list(summary.HEADLINE)
    assert (table.groupby(["task", "quantity"]).seed.nunique() == 4).all()
    assert len(table) == 2 * 4 * len(summary.HEADLINE)
    fewer = summary.headline(without(run(range(4)), "measure == 'flip_rate'"))
    assert "variants that flip" not in set(fewer.quantity)


def test_over_seeds_gives_the_mean():
    values = [0.1, 0.12, 0.11, 0.15]
    numbers = summary.headline(plant(run(range(4)), "measure == 'flip_rate'", values))
    table = summary.over_seeds(numbers, ["task"]).set_index("quantity")
    row = table.loc["variants that flip"]
    assert (row.value, row.ci_low, row.ci_high, row.n) == tuple(intervals.over_seeds(values))
    assert table.value["study's shift to memorization, net"] == pytest.approx(0.9, abs=0.01)
    three = summary.over_seeds(summary.headline(run(range(3))), ["task"])
    assert three[["ci_low", "ci_high"]].isna().all(axis=None)


def test_a_net_effect_may_be_negative():
    numbers = summary.headline(plant(run(range(4)), f"measure == 'net' and {STUDY}", [-0.1, 0.0, -0.2, -0.1]))
    row = summary.over_seeds(numbers, ["task"]).set_index("quantity").loc["study's shift to memorization, net"]
    assert -1 < row.ci_low < row.value == pytest.approx(-0.1)


def test_methods_stand_beside_their_best_control_and_their_cost():
    metrics = plant(run(range(4)), f"measure == 'net' and {STUDY}", [0.1, 0.35, 0.2, 0.2])
    metrics = plant(metrics, f"measure == 'reached' and control.isna() and {STUDY}", [0.2, 0.4, 0.3, 0.25])
    lost = "measure == 'lost' and method == 'study' and target == 'memorization' and inputs == '{}'"
    metrics = plant(metrics, lost.format("inferred_only"), [0.3, 0.0, 0.0, 0.0])
    metrics = plant(metrics, lost.format("memorized_only"), [0.1, 0.1, 0.1, 0.1])
    table = summary.steering_rates(metrics)
    assert list(zip(table.method, table.target, strict=True)) == [
        ("study", "memorization"),
        ("fitted_mlp", "memorization"),
        ("study", "generalization"),
        ("fitted_mlp", "generalization"),
    ]
    row = table.iloc[0]
    assert (row.value, row.net, row.control) == pytest.approx((0.2875, 0.2125, 0.075))
    assert row.lost == pytest.approx((0.3 + 0.1 + 0.1 + 0.1) / 4)  # the worse kind of each seed


def test_the_strongest_control_is_that_of_the_mean_over_seeds():
    """Not of any one seed; the study's random baseline is none."""
    assert set(summary.steering_rates(run(range(4))).strongest) == {"least_correlated"}
    direction = f"measure == 'reached' and control == 'random_direction' and {STUDY}"
    by_target = summary.steering_rates(plant(run(range(4)), direction, [0.01, 0.02, 0.01, 0.3])).set_index(
        ["method", "target"]
    )
    assert by_target.strongest["study", "memorization"] == "random_direction"
    assert by_target.strongest["study", "generalization"] == "least_correlated"


def test_what_is_missing_stays_missing():
    steered = "method == 'study' and target == 'memorization'"
    metrics = without(run(range(4)), f"measure in ['net', 'lost'] and {steered}")
    table = summary.steering_rates(metrics).set_index(["method", "target"])
    missing = ["net", "control", "net_low", "lost"]
    assert table.loc[("study", "memorization"), missing].isna().all()
    assert table.drop(index=("study", "memorization"))[missing].notna().all(axis=None)
    three = summary.steering_rates(run(range(3)))
    assert three[["ci_low", "net_low"]].isna().all(axis=None)
    assert np.isfinite(three.value).all()
