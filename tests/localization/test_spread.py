"""The picture of single neurons: quantiles against numpy's, cells against the heat map's, and a planted neuron."""

import numpy as np
import pandas as pd
import pytest

from memgen import behavior
from memgen.localization.spread import MEMBERS, QUANTILES, neuron_spread, ranked

KEYS = ["site", "layer", "neuron"]


@pytest.fixture
def spread(planted, planted_pairs, table):
    return neuron_spread(planted.subject.with_batch_size(7), planted.frame, planted_pairs, table)


def test_ranked_sorts_within_a_layer_and_averages_neighbours():
    nmd = [3.0, -1.0, 2.0, 0.0, 10.0, 20.0, 40.0, 30.0]
    table = pd.DataFrame({"site": "resid_post", "layer": np.repeat([0, 1], 4), "neuron": 0, "nmd": nmd})
    assert ranked(table).nmd.to_list() == [-1, 0, 2, 3, 10, 20, 30, 40]
    halved = ranked(table, max_columns=2)[["layer", "rank", "nmd"]]
    assert halved.to_numpy().tolist() == [[0, 0, -0.5], [0, 1, 2.5], [1, 0, 15], [1, 1, 35]]


def test_cells_are_the_neurons_of_the_table_in_the_order_of_the_heat_map(spread, table):
    cells = spread.merge(ranked(table), on=["site", "layer", "rank"], suffixes=("", "_map"))
    neurons = spread.merge(table, on=KEYS, suffixes=("", "_table"))
    assert len(spread) == len(cells) == len(neurons) == len(table)
    assert np.array_equal(cells.nmd, cells.nmd_map)
    assert np.array_equal(neurons.nmd, neurons.nmd_table)


def test_quantiles_are_those_of_the_pairs_members(planted, planted_pairs, spread):
    by_neuron = spread.set_index(KEYS)
    for site, neuron in (("resid_post", 9), ("mlp.hook_post", 77)):
        for name in MEMBERS:
            states = behavior.states(planted.subject, planted.frame.loc[planted_pairs[name]], [site])[site]
            expected = np.percentile(states[:, 1, neuron], QUANTILES)
            columns = [f"{name}_{q}" for q in QUANTILES]
            assert by_neuron.loc[(site, 1, neuron), columns].to_list() == pytest.approx(expected, abs=2e-5)
    assert (spread.n == len(planted_pairs)).all()


def test_the_planted_neuron_lies_apart(planted, spread):
    neuron = spread.set_index(KEYS).loc[("mlp.hook_post", *planted.neuron)]
    assert neuron.generalization_90 < neuron.memorization_10


def test_of_many_neurons_there_is_only_the_heat_map(planted, planted_pairs, table):
    spread = neuron_spread(planted.subject, planted.frame, planted_pairs, table, max_neurons=10)
    pd.testing.assert_frame_equal(spread, ranked(table))
