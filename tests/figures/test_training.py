"""Figures of the training chapter."""

import numpy as np
import pandas as pd
import pytest

from memgen import behavior
from memgen.figures import theme, training
from tests.figures import check, data_of, entries

TRAJECTORY = pd.DataFrame(np.linspace(0, 1, 15).reshape(3, 5), columns=list(training.CURVES))
TRAJECTORY["step"], TRAJECTORY["loss"] = [-100, 0, 100], [3.0, 2.0, 1.0]


def test_trajectory():
    before = TRAJECTORY.copy()
    chart = training.trajectory(TRAJECTORY, chosen=100)
    check(chart, {theme.MEMORIZATION, theme.GENERALIZATION, theme.OTHER})
    curves = pd.DataFrame([row for row in data_of(chart) if "curve" in row])
    assert len(curves) == 15
    at_end = curves[curves.step == 100].set_index("curve").value
    assert at_end["conflict: other"] == TRAJECTORY.conflict_other.iloc[-1]
    assert "conflict: other 100%" in chart.description
    assert "Step 100 is marked" in chart.description
    assert "rule" in {mark["type"] for mark in entries(chart.to_dict(), "mark")}
    pd.testing.assert_frame_equal(TRAJECTORY, before)


def test_loss():
    chart = training.loss(TRAJECTORY)
    check(chart)
    assert "from 3.00 to 1.00 nats" in chart.description
    with pytest.raises(ValueError, match="needs the columns loss"):
        training.loss(TRAJECTORY.drop(columns="loss"))


def test_curves_are_what_an_evaluation_returns():
    conflict = {f"conflict_{name}" for name in behavior.LABELS}
    assert set(training.CURVES) == {*behavior.SINGLE_ANSWER.values()} | conflict
