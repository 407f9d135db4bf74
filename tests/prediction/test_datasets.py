"""The populations of the graded tasks, small and at their own settings."""

import numpy as np
import pandas as pd
import pytest

from memgen import prediction
from memgen.prediction.datasets import Dataset, middle_shares, most_divided
from tests.prediction.conftest import conflicts, datasets


def test_open_sums_are_the_pairs_bound_in_one_order_only(graded_sums):
    rule = prediction.open_conflicts(graded_sums["train"].frame)
    for dataset in graded_sums.values():
        chosen = dataset.query(rule).frame
        assert set(chosen.binding) == {"one order"}
        assert len(chosen) == (dataset.frame.binding == "one order").sum()
        assert min(chosen.memorized_share) < 0.5 < max(chosen.memorized_share)
        assert (chosen.groupby("group").memorized_share.nunique() == 2).all()  # each pair stands in both orders


@pytest.mark.parametrize(("size", "middle"), [("small", [0.2, 0.8]), ("full", [0.35, 0.7])])
def test_middle_shares_of_the_task(size, middle):
    """On either side of one half, and nothing is nearer."""
    assert middle_shares(conflicts(size, "addition")["train"]) == middle


@pytest.mark.parametrize(
    ("shares", "middle"),
    [([0.9, 0.1, 0.75, 0.25], [0.25, 0.75]), ([0.5, 0.9, 0.1], [0.5]), ([0.9, 0.4, 0.8], [0.4, 0.8]), ([0.6], [0.6])],
)
def test_middle_shares(shares, middle):
    assert middle_shares(pd.DataFrame({"memorized_share": np.tile(shares, 3)})) == middle


def test_open_stories_have_the_most_divided_amount_of_evidence(graded_stories):
    """Two sentences of evidence are remembered or inferred by their place in the story alone."""
    rule = prediction.open_conflicts(graded_stories["train"].frame)
    assert rule == "evidence == 2"
    for dataset in graded_stories.values():
        chosen = dataset.query(rule).frame
        assert set(chosen.evidence) == {2}
        assert min(chosen.memorized_share) < 0.5 < max(chosen.memorized_share)


def test_most_divided():
    frame = pd.DataFrame({"evidence": [1] * 6 + [2] * 4, "behavior": [1, 1, 1, 1, 1, -1, 1, 1, -1, -1]})
    assert most_divided(frame) == 2


@pytest.mark.parametrize("grade", [0.5, np.nan])
def test_nothing_is_open_where_all_conflicts_are_of_one_grade_or_none(graded_sums, grade):
    assert prediction.open_conflicts(graded_sums["train"].frame.assign(memorized_share=grade)) is None


@pytest.mark.parametrize("which", [("inference",), ("addition",), ("addition", "matched")])
def test_open_conflicts_can_be_probed(which):
    """There are enough of them, of both behaviours, to tell a probe from the majority."""
    splits = datasets("full", *which)
    rule = prediction.open_conflicts(splits["train"].frame)
    assert all(dataset.query(rule).can_be_probed() for dataset in splits.values())
    assert len(splits["test"].query(rule)) > 30
    assert not splits["test"].query("behavior == 1").can_be_probed()
    assert not splits["test"].take(splits["test"].groups == splits["test"].groups[0]).can_be_probed()


def test_rows_stay_together(planted_datasets):
    dataset = planted_datasets["test"]
    rows = np.array([5, 3, 90])
    taken = dataset.take(rows)
    assert taken.labels.tolist() == dataset.labels[rows].tolist()
    np.testing.assert_array_equal(taken.states["resid_post"], dataset.states["resid_post"][rows])
    asked = dataset.query("behavior == 1")
    np.testing.assert_array_equal(asked.states["resid_post"], dataset.states["resid_post"][dataset.labels == 1])


def test_all_layers_are_the_layers_side_by_side(setting):
    frame = setting.frame.head(5)
    states = prediction.read_states(setting.subject, frame, ["resid_post", "mlp.hook_post"])
    together = states[prediction.ALL_LAYERS]
    assert together.shape == (5, 1, 2 * 32 + states["mlp.hook_post"].shape[2] * 2)
    np.testing.assert_array_equal(together[:, 0, :32], states["resid_post"][:, 0])
    np.testing.assert_array_equal(together[:, 0, 32:64], states["resid_post"][:, 1])


def test_a_sample_is_even_over_groups_and_keeps_the_order():
    groups = ["a"] * 50 + ["b"] * 5 + ["c"] * 45
    frame = pd.DataFrame({"group": groups, "behavior": 1, "row": range(100)})
    data = Dataset(frame, {"site": np.arange(100)[:, None, None]})
    sample = data.sample(25, np.random.default_rng(0))
    assert sample.frame.group.value_counts().to_dict() == {"a": 10, "b": 5, "c": 10}
    assert sample.frame.row.is_monotonic_increasing
    assert (sample.states["site"][:, 0, 0] == sample.frame.row).all()
    assert len(data.sample(1000, np.random.default_rng(0))) == 100
