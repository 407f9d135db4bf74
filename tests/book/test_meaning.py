"""What pages say of the graded design without a number holds in its published results."""

import pandas as pd
import pytest

from memgen.published import published


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    """The published main runs."""
    found = published("graded")
    assert found is not None
    return found.metrics.query("task in ['graded_inference', 'graded_addition'] and model == 'gpt2-3x64'")


def test_both_behaviors_are_learned(metrics: pd.DataFrame) -> None:
    accuracy = metrics.query("stage == 'training' and measure == 'accuracy'")
    assert len(accuracy) == 2 * 2 * 8
    assert (accuracy.value >= 0.98).all()


def test_inference_does_not_hang_on_the_top_tenth_of_the_neurons(metrics: pd.DataFrame) -> None:
    ablated = metrics.query("measure == 'ablation' and ranking == 'attribution' and inputs == 'inferred_only'")
    assert len(ablated) == 2 * 8
    assert (ablated.value >= 0.9).all()


def test_a_fitted_shift_costs_the_accuracy_of_the_other_behavior(metrics: pd.DataFrame) -> None:
    lost = metrics.query("measure == 'lost' and method == 'fitted_mlp'")
    other_kind = lost.query("(target == 'memorization') == (inputs == 'inferred_only')")
    mean = other_kind.groupby(["base_task", "target"]).value.mean()
    assert len(mean) == 4
    assert (mean > 0.5).all()


def test_a_random_tenth_can_be_steered_too(metrics: pd.DataFrame) -> None:
    reached = metrics.query(
        "measure == 'reached' and method == 'fitted_random_tenth' and control.isna() and population == 'conflicts'"
    )
    assert (reached.groupby(["base_task", "target"]).value.mean() > 0.5).all()
