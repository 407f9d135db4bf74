"""Controls have the norm of what they control, and are drawn as they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen.steering.controls import controls, least_correlated, random_direction, random_neurons, uniform

from .conftest import SHAPE


@pytest.fixture
def sparse():
    vectors = torch.zeros(SHAPE)
    vectors[0, 3], vectors[1, 5], vectors[1, 31] = 0.5, -2.0, 3.0
    return vectors


def test_random_neurons_are_others_with_the_same_magnitudes(sparse):
    for seed in range(20):
        control = random_neurons(sparse, np.random.default_rng(seed))
        assert sorted(control.abs()[control != 0].tolist()) == [0.5, 2.0, 3.0]
        assert not ((control != 0) & (sparse != 0)).any()


def test_random_neurons_where_most_are_shifted():
    """Fewer than half are left, so they are drawn from all."""
    dense = torch.arange(1.0, 65).reshape(SHAPE)
    dense[0, :10] = 0.0
    control = random_neurons(dense, np.random.default_rng(0))
    assert (control != 0).sum() == 54
    assert control.norm() == pytest.approx(dense.norm())
    assert not torch.equal(control.abs(), dense)


def test_random_neurons_and_signs_vary(sparse):
    drawn = [random_neurons(sparse, np.random.default_rng(seed)) for seed in range(200)]
    where = torch.stack([control != 0 for control in drawn]).sum(0)
    assert (where > 0).sum() == 61  # each of the others is drawn at times
    signs = torch.cat([control[control != 0].sign() for control in drawn])
    assert abs(signs.mean()) < 0.15


def test_random_direction_has_the_same_neurons_and_norms(shift):
    shift[0, 10:] = 0.0
    shift[1] = 0.0
    control = random_direction(shift, np.random.default_rng(0))
    assert torch.equal(control != 0, shift != 0)
    assert control.norm(dim=1) == pytest.approx(shift.norm(dim=1))


def test_random_directions_point_everywhere(shift):
    drawn = [random_direction(shift, np.random.default_rng(seed)) for seed in range(200)]
    cosines = [torch.cosine_similarity(control[0], shift[0], dim=0).item() for control in drawn]
    assert abs(np.mean(cosines)) < 0.05
    assert np.std(cosines) == pytest.approx(1 / np.sqrt(32), rel=0.2)


def test_least_correlated_neurons_have_the_same_magnitudes(sparse):
    r = np.linspace(-1, 1, 64)
    order = np.argsort(np.abs(r), kind="stable")[:3]
    table = pd.DataFrame({"site": "mlp_out", "layer": np.arange(64) // 32, "neuron": np.arange(64) % 32, "r": r})
    table = pd.concat([table.assign(site="attn_out", r=0.0), table]).sample(frac=1, random_state=0)
    draw = least_correlated(table, "mlp_out")
    drawn = [draw(sparse, np.random.default_rng(seed)) for seed in range(50)]
    for control in drawn:
        assert sorted(control.abs()[control != 0].tolist()) == [0.5, 2.0, 3.0]
        assert sorted(torch.nonzero(control.flatten()).flatten().tolist()) == sorted(order)
    assert len({tuple(control.flatten()[order].tolist()) for control in drawn}) > 20  # dealt and signed anew


@pytest.mark.parametrize("method", ["study", "fitted_mlp"])
def test_every_control_has_the_norm_of_its_shift(shift, neurons, method):
    kinds = controls(method, neurons, "resid_post")
    assert list(kinds) == ["random_neurons"] * (method == "study") + ["random_direction", "least_correlated"]
    for draw in kinds.values():
        control = draw(shift, np.random.default_rng(0))
        assert control.norm() == pytest.approx(shift.norm())
        assert abs(torch.cosine_similarity(control.flatten(), shift.flatten(), dim=0)) < 0.5


def test_the_random_baseline_has_as_many_neurons_and_the_norm_of_its_distribution():
    """Of n uniform numbers up to v the root mean square is v / sqrt(3)."""
    shift = torch.zeros(4, 2000)
    shift[1], shift[1, 7] = 0.1, -2.0
    baseline = uniform(shift, np.random.default_rng(0))
    assert (baseline != 0).sum() == 2000
    assert baseline.abs().max() <= 2.0
    assert abs(baseline[baseline != 0].mean()) < 0.1
    assert baseline.norm() == pytest.approx(2 * np.sqrt(2000 / 3), rel=0.03)
    assert ((baseline != 0).sum(1) > 300).all(), "neurons of every layer are drawn"


@pytest.mark.parametrize("draw", [random_neurons, random_direction, uniform])
def test_the_generator_decides(sparse, draw):
    first, again, other = (draw(sparse, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
