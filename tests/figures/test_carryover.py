"""The figures of the chapter on what carries over."""

import numpy as np
import pandas as pd
import pytest

from memgen.figures import carryover, theme
from tests.figures import data_of, rows


def rows_of(**columns):
    return rows(**columns).assign(best_control=0.1, share=0.2)


TARGETS = ["memorization", "generalization"]
CHARTS = {
    "matrix": (carryover.matrix, rows_of(task=["t"], target=TARGETS, source=["a", "b"], destination=["a", "b"])),
    "checkpoints": (
        carryover.checkpoints,
        pd.concat(
            [
                rows_of(task=["t"], step=[1, 2], measure=["checkpoint_behavior_share"], behavior=TARGETS),
                rows_of(
                    task=["t"],
                    step=[1, 2],
                    measure=["checkpoint_reached"],
                    target=TARGETS,
                    control=[None, "random_direction"],
                ),
                rows_of(task=["t"], step=[1, 2], measure=["checkpoint_top_shared"]),
            ],
            ignore_index=True,
        ),
    ),
}


CARRIED = rows(
    task=["t"],
    target=TARGETS,
    match=["own", "index", "matched"],
    control=[None, "random_neurons"],
    measure=["reached", "other"],
)


def test_a_shift_in_another_model_stands_beside_random_neurons_and_the_study():
    shown = pd.DataFrame(data_of(carryover.retrained(CARRIED, {("t", "memorization"): 0.5})))
    assert (
        shown.groupby("target", sort=False).name.apply(list).to_list()
        == [[theme.MATCH_NAMES[name] for name in ("own", "index", "random", "matched")]] * 2
    )
    assert set(shown.reported[shown.target == "memorization"]) == {0.5}
    assert shown.reported[shown.target == "generalization"].isna().all()


@pytest.mark.parametrize("name", CHARTS)
def test_a_figure_shows_its_rows_and_leaves_them_alone(name):
    draw, frame = CHARTS[name]
    before = frame.copy()
    chart = draw(frame)
    assert len(data_of(chart)) == len(frame)
    assert "tooltip" in str(chart.to_dict())
    assert chart.description
    pd.testing.assert_frame_equal(frame, before)
    with pytest.raises(ValueError, match="task"):
        draw(frame.drop(columns="task"))


def test_checkpoints_tell_the_control_from_the_model():
    shown = pd.DataFrame(data_of(carryover.checkpoints(CHARTS["checkpoints"][1])))
    assert shown.kind.value_counts().to_dict() == {"model": 10, "random direction": 4}
    assert shown.panel.unique().tolist() == ["t, behaviour", "t, steering", "t, top neurons"]


def test_a_matrix_without_intervals_says_so():
    frame = CHARTS["matrix"][1].assign(ci_low=np.nan, ci_high=np.nan)
    assert "interval" not in str(carryover.matrix(frame).to_dict()["spec"])
