"""Datasets: their rows, samples and states."""

import numpy as np
import pandas as pd

from memgen import prediction
from memgen.prediction.datasets import Dataset


def test_a_dataset_of_one_group_or_one_behavior_cannot_be_probed(planted_datasets):
    dataset = planted_datasets["test"]
    assert dataset.can_be_probed()
    assert not dataset.query("behavior == 1").can_be_probed()
    assert not dataset.take(dataset.groups == dataset.groups[0]).can_be_probed()


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
