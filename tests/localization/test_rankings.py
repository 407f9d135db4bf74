"""Tops, bottoms and random sets of neurons against sorted tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from memgen.config import InputError
from memgen.display import MAX_ROWS
from memgen.localization.rankings import neuron_sets, sorted_by_nmd, top_neurons


@pytest.fixture
def table(rng):
    values = rng.permutation(40) - 17.3
    index = {"layer": np.repeat([0, 1], 20), "neuron": np.tile(np.arange(20), 2)}
    table = pd.DataFrame({"site": "a", **index, "r": values, "nmd": values**2, "attribution": -values})
    return pd.concat([table.assign(site="b", r=0.0), table], ignore_index=True)


@pytest.mark.parametrize("by", ["r", "nmd", "attribution"])
def test_the_top_has_the_largest_absolute_values_largest_first(table, by):
    top = top_neurons(table, "a", 5, by=by)
    expected = table[table.site == "a"].assign(size=table[by].abs()).nlargest(5, "size")
    pd.testing.assert_frame_equal(top, expected[table.columns])


def test_equal_values_stay_in_the_order_of_the_table(table):
    assert top_neurons(table, "b", 3).neuron.to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("n", "by", "sentence"), [(41, "r", "1 to 40, the neurons at a, not 41"), (1, "x", "not by 'x'")]
)
def test_what_cannot_be_ranked_is_named(table, n, by, sentence):
    with pytest.raises(InputError, match=sentence):
        top_neurons(table, "a", n, by=by)


def test_neurons_are_sorted_within_a_layer_and_neighbours_averaged():
    nmd = [3.0, -1.0, 2.0, 0.0, 10.0, 20.0, 40.0, 30.0]
    table = pd.DataFrame({"site": "resid_post", "layer": np.repeat([0, 1], 4), "neuron": 0, "nmd": nmd})
    assert sorted_by_nmd(table).nmd.to_list() == [-1, 0, 2, 3, 10, 20, 30, 40]
    halved = sorted_by_nmd(table, max_columns=2)[["layer", "rank", "nmd"]]
    assert halved.to_numpy().tolist() == [[0, 0, -0.5], [0, 1, 2.5], [1, 0, 15], [1, 1, 35]]
    pd.testing.assert_frame_equal(sorted_by_nmd(table, max_rows=5)[["layer", "rank", "nmd"]], halved)


def test_a_heat_map_of_many_layers_has_room_in_a_figure():
    """SmolLM2 has 30 layers of width 576."""
    places = itertools.product(["resid_post", "resid_post_normed"], range(30), range(576))
    deep = pd.DataFrame(places, columns=["site", "layer", "neuron"]).assign(nmd=0.1)
    assert 4000 < len(sorted_by_nmd(deep)) <= MAX_ROWS


def test_sets_are_the_ends_of_each_ranking_and_random_sets_of_their_size(table, rng):
    sets = neuron_sets(table, ["a", "b"], [0.1, 0.5], rng)
    assert len(sets) == 2 * 2 * (3 * 2 + 3)
    for row in sets.itertuples():
        assert row.chosen.shape == (2, 20)
        assert row.chosen.sum() == 40 * row.share
    neurons = table[table.site == "a"].assign(size=table.r.abs())
    ends = sets.query("site == 'a' and ranking == 'r' and share == 0.1").set_index("end")
    for end, expected in (("top", neurons.nlargest(4, "size")), ("bottom", neurons.nsmallest(4, "size"))):
        chosen = ends.chosen[end]
        assert {tuple(at) for at in np.argwhere(chosen)} == set(zip(expected.layer, expected.neuron, strict=True))
    random = sets.query("end == 'random' and share == 0.5").chosen
    assert len({chosen.tobytes() for chosen in random}) == len(random) == 6
