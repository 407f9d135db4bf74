"""Shifts applied elsewhere: transfers whose answer was planted."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior
from memgen.behavior import GENERALIZATION, LABELS, MEMORIZATION, NAMES, TARGETS
from memgen.carryover import transfer
from memgen.carryover.transfer import CONTROLS, SITE
from memgen.config import AnalysisConfig
from memgen.steering import fitting, sweep
from memgen.steering.trials import Trials

ANALYSIS = AnalysisConfig(fit_rows=64, fit_batch_size=32, fit_steps=40, random_draws=2, sweep_rows=64)


def planted_shift(planted, size):
    """The shift of the neuron that decides, to each target."""
    shift = torch.zeros(2, 128)
    shift[planted.neuron] = size
    return {MEMORIZATION: shift, GENERALIZATION: -shift}


@pytest.mark.parametrize("size", [0.0, 30.0])
def test_a_shift_moves_what_it_should_and_nothing_moves_without(planted, parts, rng, size):
    frame = parts["first"]["test"]
    table = transfer.apply_shifts(planted.subject, frame, planted_shift(planted, size), ANALYSIS, rng)
    assert table.target.tolist() == ["memorization", "generalization"]
    conflicts = frame[frame.kind == "conflict"]
    assert table.n.tolist() == [(conflicts.behavior == -1).sum(), (conflicts.behavior == 1).sum()]
    assert (table.value == (size > 0)).all()
    assert (table.other == 0).all()
    assert (table.net == table.value - table.best_control).all()
    assert (table.best_control == 0).all() or size > 0
    # The planted shift costs everything where the other answer is right, and nothing where the target is.
    assert table.lost_inferred_only.tolist() == [float(size > 0), 0.0]
    assert table.lost_memorized_only.tolist() == [0.0, float(size > 0)]


def test_a_shift_carries_to_where_it_means_the_same(planted, parts, rng):
    """On the second part the first part's shift leads away from its target: that must show off the diagonal only."""
    table = transfer.shift_matrix(planted.subject, parts, ANALYSIS, rng)
    assert len(table) == 8
    same = table.source == table.destination
    assert (table.value[same] > 0.9).all()
    assert (table.value[~same] == 0).all()
    for row in table.itertuples():
        frame = parts[row.destination]["test"].query("kind == 'conflict'")
        assert row.n == (frame.behavior == -LABELS[row.target]).sum()


def test_steering_chooses(planted, parts):
    """The same objects: penalty and dose are what steering's sweep and choice give, with inputs of one right answer."""
    assert transfer.choose is sweep.choose
    settings = ANALYSIS.model_copy(update={"norm_penalties": (100.0, 0.1), "doses": (1.0, 3.0, 1e4)})
    shifts = transfer.choose_shifts(planted.subject, parts["first"], settings, np.random.default_rng(5))
    rng, train, validation = np.random.default_rng(5), parts["first"]["train"], parts["first"]["validation"]
    everywhere = torch.ones(planted.subject.shape(SITE), dtype=torch.bool)
    for target in TARGETS:
        inputs = fitting.inputs_to_fit(train, train.behavior, target, settings.fit_rows, rng)
        assert set(inputs.kind.map(behavior.RIGHT_ANSWER).dropna()) == {target}
        sets = [fitting.NeuronSet("fitted_mlp", "all", everywhere, penalty) for penalty in settings.norm_penalties]
        candidates = fitting.fit(planted.subject, inputs, SITE, sets, target, settings)
        trials = Trials.make(planted.subject, validation, validation.behavior, target, settings, rng)
        assert set(trials.single_answer) == {"memorized_only", "inferred_only"}
        tried = sweep.sweep({target: trials}, {target: candidates}, SITE, CONTROLS, rng, settings.doses)
        best = sweep.choose(tried.tried, target)
        assert torch.equal(shifts[target], tried.shifts[NAMES[target], best.trial])
        assert best.penalty == 0.1  # the other forbids any shift
        assert best.dose < 1e4  # which breaks the model


def test_without_the_opposite_behaviour_nothing_is_chosen_or_moved(planted, parts, rng):
    part = parts["first"]
    for split in ("train", "validation"):
        frame = part[split]
        poor = part | {split: frame[(frame.kind != "conflict") | (frame.behavior == MEMORIZATION)]}
        shifts = transfer.choose_shifts(planted.subject, poor, ANALYSIS, rng)
        assert list(shifts) == [GENERALIZATION]
    table = transfer.apply_shifts(planted.subject, poor["validation"], planted_shift(planted, 1.0), ANALYSIS, rng)
    assert table.target.tolist() == ["generalization"]


def test_inputs_without_a_bound_entity_belong_to_every_form():
    frame = pd.DataFrame({"form": ["study", "matched", None, "study"], "kind": "conflict"})
    parts = transfer.parts_by({"train": frame, "test": frame}, "form")
    assert list(parts) == ["study", "matched"]
    assert parts["study"]["test"].index.tolist() == [0, 2, 3]
    assert parts["matched"]["train"].index.tolist() == [1, 2]


def test_the_studys_shift_carries_in_the_same_way(planted, parts, rng):
    """Made of flip pairs by the study's formula, at its site: the planted direction of the residual stream."""
    few = {"alphas": (8.0,), "top_fractions": (0.02, 1.0)}
    settings = ANALYSIS.model_copy(update=few | {"random_draws": 8})  # on one neuron, half of them are the shift itself
    table = transfer.shift_matrix(planted.subject, parts, settings, rng, transfer.study_shifts)
    same = table.source == table.destination
    assert len(table) == 8
    assert (table.value[same] > table.best_control[same]).all()
    assert (table.value[~same] == 0).all()
    layer, dimension = planted.dimension
    shifts = transfer.study_shifts(planted.subject, parts["first"], settings, rng)
    for target, shift in shifts.items():
        assert target * shift[layer, dimension] > 0


def test_without_flip_pairs_the_study_has_no_shift(planted, parts, rng):
    alone = {split: frame[frame.variant_of < 0] for split, frame in parts["first"].items()}
    assert transfer.study_shifts(planted.subject, alone, ANALYSIS, rng) == {}
