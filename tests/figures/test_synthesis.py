"""The figures over seeds."""

import numpy as np
import pandas as pd
import pytest

from memgen.figures import synthesis
from tests.figures import data_of, rows

SEEDS = rows(quantity=["x", "y"], task=["a", "b"], seed=[0, 1])
SUMMARY = rows(quantity=["x", "y"], task=["a", "b"])


@pytest.mark.parametrize("panel", ["", "form"])
def test_quantities_show_every_seed_and_the_mean(panel):
    chart = synthesis.quantities(SEEDS.assign(form="study"), SUMMARY.assign(form="study"), "task", panel)
    shown = pd.DataFrame(data_of(chart))
    assert shown.mark.value_counts().to_dict() == {"seed": 8, "mean": 4}
    assert set(shown.interval[shown.mark == "mean"]) == {"0.400 to 0.600"}
    assert chart.description


def test_a_mean_without_an_interval_has_no_line():
    chart = synthesis.quantities(SEEDS, SUMMARY.assign(ci_low=np.nan, ci_high=np.nan), "task").to_dict()
    rules = [layer for layer in chart["layer"] if layer["mark"]["type"] == "rule"]
    assert rules[0]["transform"][-1] == {"filter": "isValid(datum.ci_low)"}
    assert all(row["ci_low"] is None for row in next(iter(chart["datasets"].values())))


DEPTH = rows(base_task=["a", "b"], form=["study", "matched"], seed=[0, 1], layer=[0, 1, 2])
CELLS = rows(
    setting=["scratch", "retrained"],
    task=["a", "b"],
    target=["memorization", "generalization"],
    outcome=["reached", "stayed", "other"],
    study=[0.5],
    ours=["conflicts"],
)
STEERING = rows(task=["a"], method=["study", "fitted_mlp"], target=["memorization", "generalization"]).assign(
    control=0.1
)


@pytest.mark.parametrize(
    ("draw", "frame", "rest"),
    [(synthesis.depth, DEPTH, ("form",)), (synthesis.steering, STEERING, ()), (synthesis.cells, CELLS, ("study",))],
)
def test_a_figure_shows_its_rows_and_leaves_them_alone(draw, frame, rest):
    before = frame.copy()
    chart = draw(frame, *(rest if draw is synthesis.depth else ()))
    assert len(data_of(chart)) == len(frame)
    assert chart.description
    pd.testing.assert_frame_equal(frame, before)
    for column in ("value", *rest):
        with pytest.raises(ValueError, match=column):
            draw(frame.drop(columns=column), *(rest if draw is synthesis.depth else ()))
