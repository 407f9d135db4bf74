"""Interchanges along a direction: exact where nothing may change, and found where the direction was planted."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior
from memgen.behavior import NAMES
from memgen.config import AnalysisConfig
from memgen.steering.das import SITE, Interchanges, along

CONFIG = AnalysisConfig(fit_steps=60, fit_batch_size=32)


@pytest.fixture
def interchanges(planted, trials, rng):
    return Interchanges.draw(planted.subject, planted.frame, trials.before.behavior, 60, rng, CONFIG.fit_batch_size)


def measured(interchanges, layer, edits):
    batches = behavior.prepare(interchanges.subject, interchanges.receivers, prefix=True)
    return behavior.measure(interchanges.subject, batches, interchanges.edited(layer, edits))


def test_sources_are_of_another_group_and_show_the_opposite(interchanges, planted, trials):
    labels = trials.before.behavior
    assert len(interchanges.receivers) == 60
    assert (interchanges.target == -labels[interchanges.receivers.index]).all()
    states = torch.from_numpy(behavior.states(planted.subject, planted.frame, [SITE])[SITE])
    for place, row in enumerate(interchanges.receivers.index):
        source = interchanges.difference[place] + states[row]
        distance = (states - source).abs().amax((1, 2))
        found = int(distance.argmin())
        assert distance[found] < 1e-5
        assert labels[found] == -labels[row]
        assert planted.frame.group[found] != planted.frame.group[row]


def test_without_an_opposite_in_another_group_there_is_no_receiver(planted, rng):
    labels = pd.Series(0, planted.frame.index)
    labels[[0, 60]] = [1, -1]  # an input and its variant
    none = Interchanges.draw(planted.subject, planted.frame, labels, 60, rng)
    assert len(none.receivers) == len(none.target) == len(none.difference) == 0


def test_an_interchange_with_itself_changes_nothing(interchanges):
    plain = measured(interchanges, 1, torch.zeros(60, 32))
    itself = measured(interchanges, 1, along(torch.zeros(60, 32), torch.ones(32) / np.sqrt(32)))
    pd.testing.assert_frame_equal(itself, plain, check_exact=True)


def test_the_sign_of_the_direction_has_no_effect(interchanges, rng):
    direction = torch.from_numpy(rng.standard_normal(32)).float()
    direction /= direction.norm()
    difference = interchanges.difference[:, 1]
    assert torch.equal(along(difference, direction), along(difference, -direction))
    assert torch.allclose(along(along(difference, direction), direction), along(difference, direction), atol=1e-5)


@torch.no_grad()
def test_the_coordinate_becomes_that_of_the_source_at_the_last_token_and_all_else_stays(interchanges, planted):
    dimension = torch.zeros(32)
    dimension[planted.dimension[1]] = 1.0
    edits = along(interchanges.difference[:, 0], dimension)
    (batch,) = behavior.prepare(interchanges.subject, interchanges.receivers)
    stores = []
    for edit in (edits * 0, edits):
        with (
            interchanges.edited(0, edit)(batch),
            activations.record(interchanges.subject.model, ["resid_pre"]) as store,
        ):
            behavior.run(interchanges.subject, batch)
        stores.append(store["resid_pre"][1])  # what the next block reads
    before, after = stores
    assert torch.equal(before[:, :-1], after[:, :-1])
    kept = torch.arange(32) != planted.dimension[1]
    assert torch.equal(before[:, -1, kept], after[:, -1, kept])
    added = interchanges.difference[:, 0, planted.dimension[1]]
    torch.testing.assert_close(after[:, -1, ~kept][:, 0] - before[:, -1, ~kept][:, 0], added, rtol=0, atol=1e-5)


def test_a_planted_direction_is_found(interchanges, planted, rng):
    """The parameters stay as they are: that is checked at the end of every test (tests/conftest.py)."""
    layer, dimension = planted.dimension
    direction = interchanges.fit(layer, CONFIG, rng)
    assert direction.norm() == pytest.approx(1.0, abs=1e-5)
    assert int(direction.abs().argmax()) == dimension
    rates = interchanges.rates(layer, direction, 3, rng).set_index(["control", "target"]).value
    for name in NAMES.values():
        if name != "other":
            assert rates[np.nan, name] > 0.95
            assert rates["random_direction", name] < 0.3
