"""Figures of the training chapter."""

import numpy as np
import pandas as pd
import pytest

from memgen import behavior
from memgen.figures import theme, training
from tests.figures import check, data_of, entries

TRAJECTORY = pd.DataFrame(
    {
        "step": [50, 100, 900, 1000, 1200],
        "lesson": ["copy", "copy", "told", "texts", "texts"],
        "conflict_memorization": [0.0, 0.0, 0.1, 0.3, 0.9],
        "conflict_generalization": [0.0, 0.1, 0.6, 0.5, 0.1],
        "conflict_other": [1.0, 0.9, 0.3, 0.2, 0.0],
        "flips": [0.0, 0.0, 0.05, 0.1, 0.02],
        "inferred_only": [0.0, 0.2, 0.7, 0.9, 1.0],
    }
)


def rows_of(chart):
    return pd.DataFrame([row for row in data_of(chart) if "name" in row])


def test_trajectory():
    before = TRAJECTORY.copy()
    chart = training.trajectory(TRAJECTORY, chosen=1000)
    check(chart, theme.BEHAVIOR_COLORS.values())
    rows = rows_of(chart)
    assert set(rows.name) == {*behavior.LABELS, training.FLIPS}
    stacked = rows[rows.name != training.FLIPS].groupby("step").value.sum()
    assert stacked.to_numpy() == pytest.approx([1.0] * 5)
    assert rows.set_index(["name", "step"]).value["memorization", 1200] == 0.9
    assert "At the marked step 1,000: memorization 30%, other 20%, generalization 50%; 10%" in chart.description
    assert {"area", "line", "rect", "rule"} <= {mark["type"] for mark in entries(chart.to_dict(), "mark")}
    pd.testing.assert_frame_equal(TRAJECTORY, before)


def test_lessons_have_spans_of_one_width_and_the_texts_are_to_scale():
    chart = training.trajectory(TRAJECTORY, chosen=1000)
    place = rows_of(chart).groupby("step").place.first()
    width = training.LESSON_WIDTH * 300
    assert place.loc[[900, 1000, 1200]].tolist() == [900, 1000, 1200]
    assert place[100] == pytest.approx(900 - width)
    assert place[50] == pytest.approx(900 - 1.5 * width)  # half of its lesson
    spans = pd.DataFrame([row for row in data_of(chart) if "left" in row])
    assert spans.lesson.tolist() == ["copy", "told"]
    assert spans.steps.tolist() == [100, 800]
    assert spans.right.diff()[1] == spans.right[1] - spans.left[1] == pytest.approx(width)
    assert spans.left[0] == place[50]  # nothing was measured before


def test_a_training_without_lessons():
    texts = TRAJECTORY[TRAJECTORY.lesson == "texts"].assign(flips=np.nan)
    chart = training.trajectory(texts, chosen=1200)
    check(chart)
    rows = rows_of(chart)
    assert (rows.place == rows.step).all()
    assert "rect" not in {mark["type"] for mark in entries(chart.to_dict(), "mark")}


def test_accuracies():
    chart = training.accuracies(TRAJECTORY)
    check(chart, {theme.GENERALIZATION})
    assert "inferred-only 100%" in chart.description
    assert {row["inputs"] for row in data_of(chart)} == {"inferred-only"}


def test_curves_are_what_an_evaluation_returns():
    assert set(training.STACK) == {f"conflict_{name}" for name in behavior.LABELS}


def test_a_model_as_it_comes():
    chart = training.trajectory(TRAJECTORY[-1:].assign(step=0, flips=0.1), chosen=0)
    check(chart)
    assert {"memorization", "generalization"} & {row.get("text") for row in data_of(chart)}
