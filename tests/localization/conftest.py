"""The planted model's statistics, which most tests here look at."""

import numpy as np
import pytest

from memgen.localization.attribution import attributions
from memgen.localization.differences import accumulate, neuron_table

SITES = ("resid_post", "mlp.hook_post")


@pytest.fixture
def accumulated(planted, planted_pairs):
    return accumulate(planted.subject, planted.frame, planted_pairs, SITES)


@pytest.fixture
def table(planted, planted_pairs, accumulated, rng):
    """The planted model's neurons with their attribution; p-values fine enough for q < .05 among 320 neurons."""
    neurons = neuron_table(accumulated, 2, rng, np.random.default_rng(5), n_permutations=20_000)
    attributed = attributions(planted.subject, planted.frame, planted_pairs, SITES)
    return neurons.merge(attributed, on=["site", "layer", "neuron"])
