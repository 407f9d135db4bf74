"""The figures of the chapter on what carries over."""

import itertools

import numpy as np
import pandas as pd
import pytest

from memgen.figures import carryover


def rows_of(**columns):
    frame = pd.DataFrame(list(itertools.product(*columns.values())), columns=list(columns))
    return frame.assign(value=0.5, ci_low=0.4, ci_high=0.6, n=8, best_control=0.1, share=0.2)


TARGETS = ["memorization", "generalization"]
CHARTS = {
    "distribution": (
        carryover.distribution,
        rows_of(task=["a"], site=["s", "t"], kind=["k", "l"], correlation=[0.1, 0.2]),
    ),
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


@pytest.mark.parametrize("name", CHARTS)
def test_a_figure_shows_its_rows_and_leaves_them_alone(name):
    draw, frame = CHARTS[name]
    before = frame.copy()
    chart = draw(frame)
    content = chart.to_dict()  # checked against the schema
    assert sum(map(len, content["datasets"].values())) == len(frame)
    assert "tooltip" in str(content)
    assert chart.description
    pd.testing.assert_frame_equal(frame, before)
    with pytest.raises(ValueError, match="task"):
        draw(frame.drop(columns="task"))


def test_checkpoints_tell_the_control_from_the_model():
    chart = carryover.checkpoints(CHARTS["checkpoints"][1]).to_dict()
    rows = pd.DataFrame(next(iter(chart["datasets"].values())))
    assert rows.kind.value_counts().to_dict() == {"model": 10, "random direction": 4}
    assert rows.panel.unique().tolist() == ["t, behaviour", "t, steering", "t, top neurons"]


def test_a_matrix_without_intervals_says_so():
    frame = CHARTS["matrix"][1].assign(ci_low=np.nan, ci_high=np.nan)
    assert "interval" not in str(carryover.matrix(frame).to_dict()["spec"])
