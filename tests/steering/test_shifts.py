"""Shifts by hand: the study's formula under any ranking, sets of neurons, and differences in means."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior
from memgen.config import InputError
from memgen.steering import shifts
from memgen.steering.shifts import mean_difference, study_candidates, study_shift

from .conftest import with_n_tokens

TABLE = pd.DataFrame(
    {
        "site": ["resid_post"] * 6 + ["mlp_out"],
        "layer": [0, 0, 0, 1, 1, 1, 0],
        "neuron": [0, 1, 2, 0, 1, 2, 0],
        "r": [0.1, -0.9, 0.5, -0.5, 0.3, 0.0, 1.0],
        "nmd": [1.0, 2.0, -3.0, -4.0, 5.0, 6.0, 9.0],
    }
)


class TestStudy:
    def test_the_formula_by_hand(self):
        """alpha * sign(r) * |NMD|, even where the signs of r and NMD differ; equal |r| in the table's order."""
        expected = torch.tensor([[0.0, -4.0, 6.0], [-8.0, 0.0, 0.0]])
        assert torch.equal(study_shift(TABLE, "resid_post", 3, 2.0, (2, 3)), expected)
        whole = study_shift(TABLE, "resid_post", 6, 1.0, (2, 3))
        assert torch.equal(whole, torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.0]]))

    def test_another_ranking(self):
        by_nmd = study_shift(TABLE, "resid_post", 3, 1.0, (2, 3), by="nmd")
        assert torch.equal(by_nmd, torch.tensor([[0.0, 0.0, 0.0], [-4.0, 5.0, 0.0]]))  # r = 0 has no sign

    def test_candidates_of_both_targets(self):
        """Alpha scales, and towards generalization the sign is reversed."""
        to_memorization, to_generalization = (
            study_candidates(TABLE, "resid_post", [1, 2], [0.5, 2.0], (2, 3), target) for target in (1, -1)
        )
        names = [(candidate.name, candidate.alpha) for candidate in to_memorization]
        assert names == [("top 1", 0.5), ("top 1", 2.0), ("top 2", 0.5), ("top 2", 2.0)]
        for there, back in zip(to_memorization, to_generalization, strict=True):
            assert torch.equal(there.shift, -back.shift)
        assert torch.equal(to_memorization[3].shift, study_shift(TABLE, "resid_post", 2, 2.0, (2, 3)))

    @pytest.mark.parametrize("n", [7, 0, -1])
    def test_more_neurons_than_there_are(self, n):
        with pytest.raises(InputError, match=f"1 to 6, .*resid_post, not {n}"):
            study_shift(TABLE, "resid_post", n, 1.0, (2, 3))


class TestMasks:
    def test_the_largest_share_by_hand(self):
        vectors = torch.tensor([[0.1, -5.0, 0.0, 2.0], [3.0, -0.2, 0.0, 1.0]])
        assert torch.nonzero(shifts.largest(vectors, 0.25)).tolist() == [[0, 1], [1, 0]]
        assert shifts.largest(vectors, 1.0).all()
        assert shifts.largest(vectors, 0.01).sum() == 1

    def test_a_random_share_is_any(self):
        masks = [shifts.random_mask((2, 10), 0.1, np.random.default_rng(seed)) for seed in range(200)]
        assert all(mask.sum() == 2 for mask in masks)
        often = torch.stack(masks).float().mean(0)
        assert often.min() > 0.02
        assert often.max() < 0.25

    def test_each_layer_and_all(self):
        masks = shifts.layer_masks(2, 3, 9)
        assert list(masks) == ["layer 0", "layer 1", "all"]
        assert masks["layer 1"].tolist() == [[False] * 3, [True] * 3]
        assert masks["all"].all()

    def test_few_single_layers_lie_between_the_first_and_the_last(self):
        assert list(shifts.layer_masks(30, 3, 4)) == ["layer 0", "layer 10", "layer 19", "layer 29", "all"]
        assert list(shifts.layer_masks(30, 3, 1)) == ["layer 0", "all"]

    def test_means_in_each_layer_and_in_all(self):
        difference = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
        first, second, both = shifts.mean_candidates(difference, -1, 9)
        assert torch.equal(first.shift + second.shift, both.shift)
        assert torch.equal(both.shift, -difference)
        assert not second.shift[0].any()


class TestMeanDifference:
    def test_it_is_balanced_over_answers(self, setting):
        """Beside a computation from the recorded states; one answer has far more inputs than the other."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:20].copy()
        answers = pd.Series(
            np.where(np.arange(20) < 14, "first", np.where(np.arange(20) < 18, "second", "third")), frame.index
        )
        labels = pd.Series(np.random.default_rng(0).permutation([1, -1] * 10), frame.index)
        labels[answers == "second"], labels[answers == "third"] = [1, 1, 1, -1], 1
        labels.iloc[0] = 0
        states = behavior.states(setting.subject, frame, ["mlp_out"])["mlp_out"]
        parts = []
        for answer in ("first", "second"):  # the third shows one behaviour only
            chosen = (answers == answer).to_numpy()
            parts.append(states[chosen & (labels == 1)].mean(0) - states[chosen & (labels == -1)].mean(0))
        by_answer = dict(zip(answers.unique(), frame.answer_memorization.unique()[:3], strict=True))
        frame["answer_memorization"] = answers.map(by_answer)
        for subject in (setting.subject, with_n_tokens(setting, 2), dataclasses.replace(setting.subject, batch_size=3)):
            found = mean_difference(subject, frame, labels, "mlp_out")
            np.testing.assert_allclose(found.numpy(), np.mean(parts, axis=0), atol=1e-4)

    def test_without_an_answer_of_both_behaviours_all_count_as_one(self, planted, trials):
        labels = trials.before.behavior
        frame = planted.frame.assign(answer_memorization=labels.map({1: "crimson", -1: "teal"}))
        found = mean_difference(planted.subject, frame, labels, "resid_post")
        layer, dimension = planted.dimension
        assert found[layer, dimension] > 0.5  # the planted one is what differs

    def test_hooks_are_gone(self, planted, trials):
        mean_difference(planted.subject, planted.frame, trials.before.behavior, "resid_post")
        assert all(not block._forward_hooks for block in activations.blocks(planted.subject.model))


@pytest.mark.parametrize(
    ("steps", "n", "expected"),
    [
        ([100, 200, 300, 400, 500], 3, [100, 300, 500]),
        ([100, 200], 5, [100, 200]),
        ([300, 100, 200], 1, [100]),
        ([], 5, []),
    ],
)
def test_evenly(steps, n, expected):
    assert shifts.evenly(steps, n) == expected
