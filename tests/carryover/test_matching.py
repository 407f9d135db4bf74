"""Neurons of two models: matches that are known beforehand."""

import copy
import itertools

import numpy as np
import pandas as pd
import torch

from memgen import behavior
from memgen.carryover import matching

SITE = "mlp.hook_post"


def permuted_copy(model, rng):
    """The same function with the MLP's neurons of each layer in another order, and that order [layer, neuron]."""
    other, orders = copy.deepcopy(model), []
    for block in other.transformer.h:
        order = torch.from_numpy(rng.permutation(block.mlp.c_fc.nf))
        block.mlp.c_fc.weight.data = block.mlp.c_fc.weight.data[:, order]
        block.mlp.c_fc.bias.data = block.mlp.c_fc.bias.data[order]
        block.mlp.c_proj.weight.data = block.mlp.c_proj.weight.data[order]
        orders.append(order.numpy())
    return other, np.stack(orders)


def states_of(subject, model, frame):
    return behavior.states(type(subject)(model, subject.tokenizer, 16), frame, [SITE])


def test_a_permuted_copy_matches_perfectly(sums, rng):
    other, order = permuted_copy(sums.subject.model, rng)
    states = {
        seed: states_of(sums.subject, model, sums.frame) for seed, model in enumerate((sums.subject.model, other))
    }
    a, b = states[0][SITE], states[1][SITE]
    assert a.shape == b.shape == (len(sums.frame), 2, 128)
    np.testing.assert_allclose(a[:, np.arange(2)[:, None], order], b, atol=1e-5)
    where = matching.one_to_one(matching.correlations(a, b))
    expected = (np.argsort(order, axis=1) + 128 * np.arange(2)[:, None]).ravel()
    assert (where == expected).all()


def test_correlations_are_pearsons(rng):
    a, b = rng.standard_normal((50, 2, 3)), rng.standard_normal((50, 1, 4))
    a[:, 1, 2] = 7.0  # constant
    found = matching.correlations(a, b)
    expected = np.corrcoef(a.reshape(50, 6).T[:5], b.reshape(50, 4).T)[:5, 5:]
    np.testing.assert_allclose(found[:5], expected, atol=1e-6)
    assert (found[5] == 0).all()


def test_one_to_one_is_the_best_pairing(rng):
    correlation = rng.uniform(-1, 1, (5, 5))
    sums = {order: np.abs(correlation)[np.arange(5), order].sum() for order in itertools.permutations(range(5))}
    assert tuple(matching.one_to_one(correlation)) == max(sums, key=sums.get)


def test_top_overlap(rng):
    r = np.append([0.1, -0.9, 0.5, 0.5, 0.0, 0.2, -0.3], np.zeros(13))
    assert matching.top_overlap(r, np.isin(np.arange(20), [1, 2]).astype(float)) == 1.0  # the earlier of equals
    r = rng.permutation(np.linspace(0.1, 1, 100))
    assert matching.top_overlap(r, -r) == 1.0
    assert matching.top_overlap(r, 1 / r) == 0.0


def test_common_prompts_are_conflicts_from_every_frame(rng):
    frames = [pd.DataFrame({"kind": ["conflict"] * 30 + ["aligned"] * 30, "seed": seed}) for seed in range(3)]
    common = matching.common_prompts(frames, 20, rng)
    assert set(common.kind) == {"conflict"}
    assert common.seed.value_counts().tolist() == [7, 7, 7]
    assert common.index.tolist() == list(range(21))
    assert len(matching.common_prompts(frames, 1000, rng)) == 90
