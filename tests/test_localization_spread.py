"""The picture of single neurons: quantiles against numpy's, cells against the heat map's, and a planted neuron."""

import numpy as np
import pandas as pd
import pytest

from memgen import localization
from memgen.localization import spread

READ = ("resid_post", "mlp.hook_post")


@pytest.fixture
def inputs(planted, planted_pairs):
    return planted.model, planted.frame, planted_pairs, planted.tokenizer


@pytest.fixture
def table(inputs, rng):
    return localization.neuron_table(localization.accumulate(*inputs, READ), 2, rng, 20)


def test_cells_are_those_of_the_heat_map(inputs, table):
    told = localization.neuron_spread(*inputs, table)
    keys = ["site", "layer", "rank"]
    both = told.merge(localization.ranked(table), on=keys, suffixes=("", "_map"))
    assert len(told) == len(both) == len(table)
    assert np.array_equal(both.nmd, both.nmd_map)
    own = told.merge(table, on=["site", "layer", "neuron"], suffixes=("", "_table"))
    assert len(own) == len(table)
    assert np.array_equal(own.nmd, own.nmd_table)


def test_quantiles_are_those_of_the_pairs_members(inputs, table, planted_pairs):
    """Read again in one batch, and for one neuron of each site."""
    model, frame, pairs, tokenizer = inputs
    told = localization.neuron_spread(*inputs, table, batch_size=7).set_index(["site", "layer", "neuron"])
    for site, neuron in (("resid_post", 9), ("mlp.hook_post", 77)):
        for name in spread.MEMBERS:
            ((_, states),) = localization.read_states(model, frame.loc[pairs[name]], tokenizer, [site], 10_000)
            for q in spread.SHOWN_QUANTILES:
                expected = np.percentile(states[site][:, 1, neuron], q)
                assert told.loc[(site, 1, neuron), f"{name}_{q}"] == pytest.approx(expected, abs=2e-5)
    assert (told.n == len(planted_pairs)).all()


def test_planted_neuron_lies_apart(inputs, table):
    told = localization.neuron_spread(*inputs, table).set_index(["site", "layer", "neuron"])
    own = told.loc[("mlp.hook_post", 1, 77)]
    low, high = sorted(["memorization", "generalization"], key=lambda name: own[f"{name}_50"])
    assert own[f"{low}_90"] < own[f"{high}_10"]


def test_of_many_neurons_only_the_heat_map_is_told(inputs, table):
    pd.testing.assert_frame_equal(
        localization.neuron_spread(*inputs, table, max_neurons=10), localization.ranked(table)
    )
