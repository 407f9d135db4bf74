"""Controls: memorized labels, the model's own readout, and few neurons."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, prediction
from memgen.prediction.controls import first_tokens
from memgen.prediction.tables import COLUMNS
from tests.conftest import tiny_model


def with_groups(rng, n_groups=24, rows=6, width=40, knows_group=True, knows_behavior=True):
    """States that hold the group, or the behaviour, or neither."""
    groups = np.repeat(np.arange(n_groups), rows)
    labels = rng.permutation(np.resize([1, -1], len(groups)))
    state = rng.standard_normal((len(groups), 2, width))
    if knows_group:
        state[np.arange(len(groups)), :, groups] += 12
    if knows_behavior:
        state[:, :, -1] += 4 * labels[:, None]
    return prediction.Dataset(
        pd.DataFrame({"behavior": labels, "group": groups.astype(str)}), {"resid_post": state, "mlp_out": -state}
    )


@pytest.mark.parametrize(
    ("knows_group", "knows_behavior"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_control_task_tells_memorizing_from_reading(rng, knows_group, knows_behavior):
    dataset = with_groups(rng, knows_group=knows_group, knows_behavior=knows_behavior)
    table, selectivity = prediction.control_task(dataset, "resid_post", "hidden states", "conflicts", rng)
    assert list(table) == COLUMNS
    assert set(table.split) == {"held-out rows"}
    assert set(table[table.kind == "control"].probe) == {"control task"}
    assert (table.n == 24 * 3).all()
    for layer in (0, 1):
        rows = table[table.layer == layer].set_index("probe").accuracy
        real, control = rows["hidden states"], rows["control task"]
        assert (control > 0.9) if knows_group else (control < 0.7)
        assert (real > 0.9) if knows_behavior else (real < 0.7)
        assert selectivity[layer].value == pytest.approx(real - control)
        assert selectivity[layer].ci_low <= real - control <= selectivity[layer].ci_high


def test_control_task_of_graded_sums(graded_sums, rng):
    """Of two rows a group the probe learns one and is asked about the other."""
    train = graded_sums["train"]
    states = {"resid_post": rng.standard_normal((len(train), 1, 5))}
    table, _ = prediction.control_task(
        prediction.Dataset(train.frame, states), "resid_post", "hidden states and squares", "conflicts", rng
    )
    assert (table.n == len(np.unique(train.groups))).all()


# --- the model's own readout


@pytest.fixture
def read(stories):
    frame = stories.frame.query("kind == 'conflict'").head(20)
    subject = stories.subject
    return subject, frame, behavior.states(subject, frame, ["resid_post"])["resid_post"]


def last_logits(subject, frame):
    (batch,) = behavior.prepare(subject, frame)
    with torch.no_grad():
        return behavior.run(subject, batch)[np.arange(len(frame)), batch.prompt_length - 1].numpy()


def test_readouts_of_the_last_layer_are_the_models_logits(read):
    subject, frame, states = read
    logits = last_logits(subject, frame)
    tokens = [first_tokens(subject, frame[f"answer_{name}"]) for name in ("memorization", "generalization")]
    odds = prediction.readouts(subject, states, frame, frame)
    direct = logits[np.arange(20), tokens[0][:, 0]] - logits[np.arange(20), tokens[1][:, 0]]
    agnostic = logits[:, np.unique(tokens[0])].max(1) - logits[:, np.unique(tokens[1])].max(1)
    np.testing.assert_allclose(odds["direct reading"][:, -1], direct, atol=1e-4)
    np.testing.assert_allclose(odds["agnostic reading"][:, -1], agnostic, atol=1e-4)
    assert odds["direct reading"].shape == odds["agnostic reading"].shape == (20, 2)
    assert abs(odds["direct reading"][:, 0] - direct).max() > 0.1  # an earlier layer says something else


@pytest.mark.parametrize("name", activations.ARCHITECTURES)
def test_readouts_of_every_architecture(read, name):
    """Of the last layer the sign is that of the logits, also where these are capped."""
    subject, frame, _ = read
    subject = dataclasses.replace(subject, model=tiny_model(name, len(subject.tokenizer), window=64))
    states = behavior.states(subject, frame, ["resid_post"])["resid_post"]
    odds = prediction.readouts(subject, states, frame, frame)["direct reading"][:, -1]
    logits, row = last_logits(subject, frame), np.arange(len(frame))
    first = [first_tokens(subject, frame[f"answer_{name}"])[:, 0] for name in ("memorization", "generalization")]
    assert (np.sign(odds) == np.sign(logits[row, first[0]] - logits[row, first[1]])).all()


def test_agnostic_reading_does_not_know_the_answers_of_an_input(read, rng):
    subject, frame, states = read
    shuffled = frame.assign(
        answer_memorization=rng.permutation(frame.answer_memorization),
        answer_generalization=rng.permutation(frame.answer_generalization),
    )
    odds, other = (prediction.readouts(subject, states, rows, frame) for rows in (frame, shuffled))
    np.testing.assert_array_equal(odds["agnostic reading"], other["agnostic reading"])
    assert not np.array_equal(odds["direct reading"], other["direct reading"])


def test_agnostic_reading_says_nothing_where_both_kinds_of_answers_are_the_same_words(read):
    subject, frame, states = read
    same = frame.assign(answer_generalization=frame.answer_memorization)
    assert not prediction.readouts(subject, states, frame, same)["agnostic reading"].any()


def test_readings_are_signs_of_readouts():
    labels = np.array([1, -1, 1, -1])
    odds = np.stack([[-1.0, -2.0, 3.0, 4.0], 0.1 * labels], axis=1)
    frame = pd.DataFrame({"behavior": labels, "group": list("abcd")})
    dataset = prediction.Dataset(frame, {}, {"direct reading": odds})
    first, last = prediction.reading_probes(dataset)
    assert (last.kind, last.probe, last.site, last.layer) == ("reading", "direct reading", "resid_post", 1)
    assert first.correct(dataset).tolist() == [0, 1, 1, 0]
    assert last.correct(dataset).all()


# --- few neurons


def test_one_planted_neuron_is_found(planted_datasets, rng):
    train, test = planted_datasets["train"], planted_datasets["test"]
    for dataset in (train, test):
        dataset.states["resid_post"][:, 0, 4] = 7.0  # a constant is no evidence
    table = prediction.sparse_accuracy(train, test, "resid_post", [1, 2, 12], rng)
    value = table.set_index(["kind", "k"]).value
    assert value["k-sparse", 1] > 0.95
    assert value["random", 1] < 0.75 < 0.95 < value["random", 12]  # among all neurons is the planted one
    assert (value["shuffled"] < 0.75).all()
    assert (table.n == len(test)).all()
    assert (table.ci_low <= table.value).all()


def test_sparse_probes_are_chosen_on_training_groups(planted_datasets, rng):
    """A neuron that holds the label in the test groups alone is not taken."""
    train, test = planted_datasets["train"], planted_datasets["test"]
    train.states["resid_post"][:, 1, 2] = rng.standard_normal(len(train))
    table = prediction.sparse_accuracy(train, test, "resid_post", [1], rng)
    assert table.value.max() < 0.75
