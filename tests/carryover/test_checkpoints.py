"""Earlier states of a model, here of the planted one."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, intervals
from memgen.carryover import checkpoints, matching
from memgen.carryover.transfer import SITE
from memgen.steering.shifts import largest
from tests.carryover.test_transfer import ANALYSIS


def test_neuron_correlations_find_the_planted_neuron(planted, parts):
    frame = pd.concat(parts["first"].values()).sort_index().query("kind == 'conflict'")
    r = checkpoints.neuron_correlations(planted.subject, frame, SITE)
    layer, neuron = planted.neuron
    assert r.shape == (256,)
    assert largest(torch.from_numpy(r), matching.TOP_SHARE)[layer * 128 + neuron]
    pairs = behavior.flip_pairs(frame, frame.behavior)
    members = frame.loc[[*pairs.memorization, *pairs.generalization]]
    activations = behavior.states(planted.subject, members, [SITE])[SITE][:, layer, neuron]
    assert r[layer * 128 + neuron] == pytest.approx(np.corrcoef(activations, members.behavior)[0, 1], abs=1e-5)
    alike = frame.assign(behavior=behavior.MEMORIZATION)
    assert checkpoints.neuron_correlations(planted.subject, alike, SITE) is None


def test_a_checkpoint_tells_of_behaviour_steering_and_neurons(planted, parts, rng):
    frames = {split: parts["first"][split].drop(columns="behavior") for split in ("train", "validation")}
    final_r = checkpoints.neuron_correlations(planted.subject, parts["first"]["train"], SITE)
    table = checkpoints.at_checkpoint(planted.subject, frames, final_r, ANALYSIS, rng)
    assert list(table) == ["measure", "behavior", "target", "control", "value", "ci_low", "ci_high", "n"]
    conflicts = parts["first"]["validation"].query("kind == 'conflict'")
    shares = table[table.measure == "checkpoint_behavior_share"].set_index("behavior")
    assert shares.value.to_dict() == pytest.approx(behavior.rates(conflicts.behavior))
    expected = intervals.share(conflicts.behavior == behavior.MEMORIZATION, conflicts.group)
    assert shares.loc["memorization", list(expected._fields)].tolist() == pytest.approx(list(expected))
    assert table.value[table.measure == "checkpoint_top_shared"].tolist() == [1.0]
    steered = table[table.measure == "checkpoint_reached"].fillna({"control": "none"})
    steered = steered.pivot(index="target", columns="control", values="value")
    assert (steered.none > 0.9).all()
    assert (steered.random_direction < steered.none).all()
    none = checkpoints.at_checkpoint(planted.subject, frames, None, ANALYSIS, rng)
    assert "checkpoint_top_shared" not in set(none.measure)
