"""Fitted shifts do what the loss says, on their neurons, find what was planted, and leave the model as it was."""

import copy
import dataclasses

import pandas as pd
import pytest
import torch

from memgen import activations, behavior
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering.fitting import NeuronSet, fit, inputs_to_fit, layer_sets

from .conftest import SHAPE, adding, with_n_tokens

ALL = torch.ones(SHAPE, dtype=torch.bool)
QUICK = AnalysisConfig(fit_steps=3)


def neurons(mask=ALL, penalty=0.01):
    return NeuronSet("fitted", "some", mask, penalty)


def conflicts(setting, n=8):
    return setting.frame[setting.frame.kind == "conflict"].iloc[:n]


@pytest.mark.parametrize("target", TARGETS)
def test_it_raises_the_targets_probability_on_its_inputs(setting, target):
    """That it leaves the parameters alone is checked at the end of every test (tests/conftest.py)."""
    subject, frame = with_n_tokens(setting, setting.query_length), conflicts(setting)
    (fitted,) = fit(subject, frame, "resid_post", [neurons()], target, AnalysisConfig(fit_steps=25))
    assert not fitted.shift.requires_grad
    name, batches = f"log_p_{NAMES[target]}", behavior.prepare(subject, frame)
    before = behavior.measure(subject, batches)[name]
    after = behavior.measure(subject, batches, adding(subject, "resid_post", fitted.shift))[name]
    assert after.mean() > before.mean() + 0.5


def test_zero_outside_the_allowed_neurons(sums):
    allowed = torch.zeros(SHAPE, dtype=torch.bool)
    allowed[1, 4:20] = True
    (fitted,) = fit(sums.subject, sums.frame, "resid_post", [neurons(allowed)], -1, QUICK)
    assert (fitted.shift[~allowed] == 0).all()
    assert (fitted.shift[allowed] != 0).all()


def test_the_same_inputs_give_the_same_vector_and_more_positions_another(stories):
    (first,), (again,), (other,) = (
        fit(subject, conflicts(stories), "resid_post", [neurons()], 1, QUICK)
        for subject in (stories.subject, stories.subject, with_n_tokens(stories, 3))
    )
    assert torch.equal(first.shift, again.shift)
    assert not torch.equal(first.shift, other.shift)


def test_frozen_parameters_stay_frozen_and_others_trainable(sums):
    subject = dataclasses.replace(sums.subject, model=copy.deepcopy(sums.subject.model))
    subject.model.requires_grad_(True).transformer.wte.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in subject.model.parameters()]
    fit(subject, sums.frame, "resid_post", [neurons()], 1, QUICK)
    assert [parameter.requires_grad for parameter in subject.model.parameters()] == flags
    assert not all(flags)
    with pytest.raises(IndexError):  # after an error on the way, too
        fit(subject, conflicts(sums).assign(answer_memorization="9" * 200), "resid_post", [neurons()], 1, QUICK)
    assert [parameter.requires_grad for parameter in subject.model.parameters()] == flags
    assert all("forward" not in vars(block) for block in activations.blocks(subject.model))


def test_a_wrong_shape(sums):
    with pytest.raises(ValueError, match=r"must have the shape \[trial, 2, 32\]"):
        fit(sums.subject, sums.frame, "resid_post", [neurons(torch.ones(1, 32).bool())], 1, QUICK)


@pytest.mark.parametrize("n_tokens", [1, 2])
def test_several_at_once_are_each_as_if_alone(setting, n_tokens):
    """Of different neurons, penalties and first layers."""
    last, thinned = ALL.clone(), ALL.clone()
    last[0], thinned[:, ::3] = False, False
    sets = [neurons(), neurons(last), neurons(thinned, 0.3), neurons(ALL, 3.0)]
    settings = (-1, AnalysisConfig(fit_steps=4))
    subject, frame = with_n_tokens(setting, n_tokens), conflicts(setting)
    together = fit(subject, frame, "resid_post", sets, *settings)
    for part, fitted in zip(sets, together, strict=True):
        (alone,) = fit(subject, frame, "resid_post", [part], *settings)
        assert torch.allclose(fitted.shift, alone.shift, atol=2e-3)
        assert not fitted.shift[~part.mask].any()
        assert fitted.penalty == part.penalty
    assert together[3].shift.norm() < together[0].shift.norm()


def test_no_input_has_the_answer(sums):
    only_memorized = sums.frame[sums.frame.kind == "memorized_only"]
    with pytest.raises(ValueError, match="No input has an answer by generalization"):
        fit(sums.subject, only_memorized, "resid_post", [neurons()], -1, QUICK)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post"])
def test_it_recovers_a_planted_direction(planted, trials, site, target):
    """The penalty must be strong enough to take away what Adam's equal first steps give to every neuron."""
    layer, neuron = planted.dimension if site == "resid_post" else planted.neuron
    opposite = planted.frame[trials.before.behavior == -target].iloc[:24]
    allowed = torch.zeros(planted.subject.shape(site), dtype=torch.bool)
    allowed[layer] = True
    (fitted,) = fit(planted.subject, opposite, site, [neurons(allowed, 1.0)], target, AnalysisConfig())
    assert target * fitted.shift[layer, neuron] / fitted.shift.norm() > 0.9  # the cosine with the planted direction
    batches = behavior.prepare(planted.subject, opposite, prefix=True)
    after = behavior.measure(planted.subject, batches, adding(planted.subject, site, fitted.shift))
    assert (after.behavior == target).mean() > 0.95


def test_sets_of_layers():
    sets = layer_sets("fitted", (2, 3), [0.1, 0.3], 9)
    assert [(part.name, part.penalty) for part in sets] == [
        ("layer 0", 0.1),
        ("layer 1", 0.1),
        ("all", 0.1),
        ("all", 0.3),
    ]
    assert sets[1].mask.tolist() == [[False] * 3, [True] * 3]


def test_inputs_to_turn_and_half_as_many_to_leave_right(planted, trials, rng):
    labels = trials.before.behavior
    for target, kind in ((1, "memorized_only"), (-1, "inferred_only")):
        right = planted.frame[labels == target].assign(kind=kind)
        frame = pd.concat([planted.frame[labels == -target], right])
        inputs = inputs_to_fit(frame, labels, target, 20, rng)
        assert inputs.kind.value_counts().to_dict() == {"conflict": 20, kind: 10}
        assert (labels[inputs.index[inputs.kind == "conflict"]] == -target).all()
