"""A shift carried to another model: to where it means the same, and no further."""

import numpy as np
import pytest
import torch

from memgen import behavior
from memgen.carryover import retrained
from memgen.config import AnalysisConfig
from memgen.steering.interventions import Intervention

ANALYSIS = AnalysisConfig(sweep_rows=64, sweep_draws=2)
SITE = "mlp.hook_post"


def test_a_shift_follows_its_neurons_and_their_signs(rng):
    """In another order and with turned signs, the same neurons get the same shift; no layer gets another's part."""
    source, shift = rng.standard_normal((60, 2, 8)), torch.from_numpy(rng.standard_normal((2, 8))).float()
    shift[0, 2:] = 0
    order = np.stack([rng.permutation(8) for _ in range(2)])
    sign = rng.choice([-1.0, 1.0], (2, 8))
    receiver = np.take_along_axis(source * sign, order[None], 2) + 0.1 * rng.standard_normal((60, 2, 8))
    expected = torch.take_along_dim(shift * torch.from_numpy(sign).float(), torch.from_numpy(order), 1)
    found = retrained.carried(shift, source, receiver)
    assert torch.equal(found, expected)
    assert torch.equal(retrained.carried(shift, source, source), shift)


def planted_shift(planted, neuron):
    shift = torch.zeros(2, 128)
    shift[planted.neuron[0], neuron] = 30.0
    return Intervention(SITE, 1, shift, -shift)


@pytest.fixture
def result(planted, parts, rng):
    """The planted model as seed 0, and as seed 1 its copy with two neurons exchanged, whose shift is seed 1's own."""
    frame = parts["first"]["test"]
    layer, neuron = planted.neuron
    states = behavior.states(planted.subject, frame[frame.kind == "conflict"], [SITE])[SITE]
    exchanged = states.copy()
    exchanged[:, layer, [neuron, 3]] = states[:, layer, [3, neuron]]
    shifts = {0: planted_shift(planted, neuron), 1: planted_shift(planted, 3)}
    table = retrained.from_other_seeds(planted.subject, frame, 0, shifts, {0: states, 1: exchanged}, ANALYSIS, rng)
    return frame, table


def test_what_is_matched_works_and_an_index_does_not(result):
    frame, table = result
    assert list(table) == retrained.COLUMNS
    reached = table[(table.measure == "reached") & table.control.isna()].set_index(["match", "target"])
    assert (reached.value[["own", "matched"]] == 1).all()
    assert (reached.value["index"] < 0.1).all()
    assert reached.source_seed.groupby("match").unique().map(list).to_dict() == {
        "index": ["1"],
        "matched": ["1"],
        "own": ["0"],
    }
    conflicts = frame[frame.kind == "conflict"]
    assert reached.n.xs("memorization", level="target").eq((conflicts.behavior == -1).sum()).all()
    controls = table[table.control == "random_neurons"]
    assert len(controls) == 2 * 3 * 3
    assert (controls[controls.measure == "reached"].value < 0.5).all()
    shares = table.groupby(["match", "target", "control"], dropna=False).value.sum()
    assert shares.to_numpy() == pytest.approx(1)


def test_a_target_without_the_opposite_behaviour_is_left_out(planted, parts, rng):
    frame = parts["first"]["test"].query("behavior == 1")
    shifts = {0: planted_shift(planted, 3)}
    table = retrained.from_other_seeds(planted.subject, frame, 0, shifts, {}, ANALYSIS, rng)
    assert set(table.target) == {"generalization"}
    none = frame[frame.kind != "conflict"]
    empty = retrained.from_other_seeds(planted.subject, none, 0, shifts, {}, ANALYSIS, rng)
    assert empty.empty
    assert list(empty) == retrained.COLUMNS
