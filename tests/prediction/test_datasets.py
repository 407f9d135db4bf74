"""The populations, at the settings that the profiles use."""

import numpy as np
import pandas as pd
import pytest

from memgen import config, prediction, tasks
from memgen.prediction.datasets import middle_shares, most_divided
from tests.prediction.conftest import conflicts, datasets


def test_open_sums_are_the_pairs_bound_in_one_order_only(profile_sums):
    rule = prediction.open_conflicts(profile_sums["train"].frame)
    for dataset in profile_sums.values():
        chosen = dataset.query(rule).frame
        assert set(chosen.binding) == {"one order"}
        assert len(chosen) == (dataset.frame.binding == "one order").sum()
        assert min(chosen.memorized_share) < 0.5 < max(chosen.memorized_share)
        assert (chosen.groupby("group").memorized_share.nunique() == 2).all()  # each pair stands in both orders


@pytest.mark.parametrize("profile", config.profiles())
def test_middle_shares_of_every_profile(profile):
    """On either side of one half, and nothing is nearer; of the task's defaults as well as of what a profile sets."""
    for name in config.load_profile(profile).names():
        spec = config.load_profile(profile).spec(name)
        if spec.task == "addition" and spec.conflicts == "graded":
            settings = tasks.from_config(config.resolve(profile, name)).memorized_share
            below, above = middle_shares(conflicts(profile, name)["train"])
            assert below == max(share for share in settings if share < 0.5)
            assert above == min(share for share in settings if share > 0.5)
            assert [below, above] == ([0.2, 0.8] if profile == "smoke" else [0.35, 0.7])


@pytest.mark.parametrize(
    ("shares", "middle"),
    [([0.9, 0.1, 0.75, 0.25], [0.25, 0.75]), ([0.5, 0.9, 0.1], [0.5]), ([0.9, 0.4, 0.8], [0.4, 0.8]), ([0.6], [0.6])],
)
def test_middle_shares(shares, middle):
    assert middle_shares(pd.DataFrame({"memorized_share": np.tile(shares, 3)})) == middle


def test_open_stories_have_the_most_divided_amount_of_evidence(profile_stories):
    """Two sentences of evidence are remembered or inferred by their place in the story alone."""
    rule = prediction.open_conflicts(profile_stories["train"].frame)
    assert rule == "evidence == 2"
    for dataset in profile_stories.values():
        chosen = dataset.query(rule).frame
        assert set(chosen.evidence) == {2}
        assert min(chosen.memorized_share) < 0.5 < max(chosen.memorized_share)


def test_most_divided():
    frame = pd.DataFrame({"evidence": [1] * 6 + [2] * 4, "behavior": [1, 1, 1, 1, 1, -1, 1, 1, -1, -1]})
    assert most_divided(frame) == 2


def test_nothing_is_open_where_all_conflicts_are_of_one_grade(profile_sums):
    assert prediction.open_conflicts(profile_sums["train"].frame.assign(memorized_share=0.5)) is None


@pytest.mark.parametrize("run", ["inference", "addition", "addition-matched"])
def test_open_conflicts_of_the_full_profile_can_be_probed(run):
    """There are enough of them, of both behaviours, to tell a probe from the majority."""
    splits = datasets("full", run)
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


def test_profiles_differ():
    """The fixtures above are the profiles' own: the smoke test is the smaller one."""
    assert len(datasets("smoke", "inference")["test"]) < len(datasets("full", "inference")["test"])
