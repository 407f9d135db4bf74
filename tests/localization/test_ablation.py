"""Mean ablation: nothing, a planted neuron, and a record for every kind of input."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, intervals
from memgen.localization.patching import ablate

MLP = "mlp.hook_post"


def sets_of(**neurons):
    rows = []
    for ranking, at in neurons.items():
        chosen = np.zeros((2, 128), dtype=bool)
        if at is not None:
            chosen[at] = True
        rows.append({"site": MLP, "ranking": ranking, "chosen": chosen})
    return pd.DataFrame(rows)


def test_an_empty_set_leaves_the_accuracy_of_each_kind(setting):
    ablated = ablate(
        dataclasses.replace(setting.subject, batch_size=31), setting.frame, setting.frame, sets_of(none=None)
    )
    shares = ablated.groupby("inputs").value.mean()
    measured = behavior.measure(setting.subject, behavior.prepare(setting.subject, setting.frame)).behavior
    for kind in set(setting.frame.kind) - {"conflict"}:
        assert shares[kind] == pytest.approx(behavior.accuracy(setting.frame, measured, kind), abs=0.02)
    assert shares["conflict"] == 1


def test_neurons_are_set_to_the_mean_over_the_reference(setting, monkeypatch):
    subject, reference = setting.subject, setting.frame.iloc[:17]
    expected = behavior.states(subject, reference, [MLP])[MLP].mean(0)
    recorded = []
    run = behavior.run

    def recording(subject, batch, *args, **options):
        with activations.record(subject.model, [MLP]) as store:
            logits = run(subject, batch, *args, **options)
        recorded.append(activations.at_last(store[MLP], batch.prompt_length, MLP))
        return logits

    sets = sets_of(all=slice(None))
    monkeypatch.setattr(behavior, "run", recording)
    ablate(subject, setting.frame.iloc[:9], reference, sets)
    assert torch.allclose(recorded[-1], torch.from_numpy(expected).expand(len(recorded[-1]), -1, -1), atol=1e-5)


def test_without_the_planted_neuron_all_inputs_are_alike(planted):
    """At most one member of each pair can keep its behaviour; without another neuron all do."""
    sets = sets_of(planted=planted.neuron, other=(0, 5))
    ablated = ablate(planted.subject, planted.frame, planted.frame, sets)
    values = ablated.query("inputs == 'conflict'").groupby("ranking").value.mean()
    assert values["planted"] <= 0.5
    assert values["other"] == 1


def test_every_input_has_a_row_for_each_set(stories):
    ablated = ablate(stories.subject, stories.frame, stories.frame, sets_of(none=None, other=(0, 5)))
    for _, rows in ablated.groupby("ranking"):
        assert rows.set_index("input").inputs.sort_index().to_list() == stories.frame.kind.to_list()


def test_a_random_set_is_a_mean_over_its_draws():
    about = {"ranking": "random", "draw": [0, 1, 0, 1], "inputs": "conflict", "input": [4, 4, 9, 9]}
    ablated = pd.DataFrame(about | {"group": list("aabb"), "value": [1.0, 0.0, 1.0, 1.0]})
    (row,) = intervals.estimate_by(ablated, ["ranking", "inputs"], inputs="input").itertuples()
    assert (row.value, row.n) == (0.75, 2)
