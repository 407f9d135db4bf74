"""Side effects, parts of a shift, and a network without behaviour."""

import dataclasses

import numpy as np
import pytest
import torch

from memgen import behavior, intervals
from memgen.behavior import NAMES, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering import effects
from memgen.steering.fitting import NeuronSet, fit
from memgen.steering.shifts import Candidate
from memgen.steering.sweep import sweep
from memgen.steering.trials import Trials, by_group

from .conftest import adding, intervention, planted_shift


def same_rng(_name):
    return np.random.default_rng(5)


class TestDivergence:
    @torch.no_grad()
    def test_beside_whole_passes(self, setting, shifts):
        """At the last token of the cut prompt, where the prompt's own last token comes next."""
        subject, frame = dataclasses.replace(setting.subject, batch_size=7), setting.frame.iloc[::6]
        found = effects.divergence(subject, frame, "resid_post", [*shifts, 0 * shifts[0]])
        assert found[7] == pytest.approx(0, abs=1e-10)
        for place, prompt in enumerate(frame.input_ids):
            ids = torch.tensor([list(prompt[:-1])]).long()
            (batch,) = behavior.prepare(subject, frame.iloc[[place]].assign(input_ids=[prompt[:-1]]).iloc[:1])[:1]
            plain = subject.model(ids).logits[0, -1].double().log_softmax(-1)
            with adding(subject, "resid_post", shifts[2])(batch):
                steered = behavior.run(subject, batch)[0, int(batch.prompt_length[0]) - 1].double().log_softmax(-1)
            expected = torch.nn.functional.kl_div(steered, plain, log_target=True, reduction="sum")
            assert found[2, place] == pytest.approx(float(expected), abs=1e-3)

    def test_of_every_method_beside_its_first_control(self, stories, shifts, neurons):
        settings = AnalysisConfig(sweep_rows=10, random_draws=2)
        made = {"study": intervention("resid_post", shifts[0]), "fitted_resid": intervention("resid_post", shifts[5])}
        found = effects.divergences(stories.subject, stories.frame, made, neurons, settings, same_rng)
        assert (found.value > 0).all()
        assert (found.n == 10).all()
        assert found.control.dropna().to_list() == ["random_neurons"] * 2 + ["random_direction"] * 2
        inputs = by_group(stories.frame, 10, same_rng(""))
        expected = effects.divergence(stories.subject, inputs, "resid_post", [-shifts[5]]).mean()
        row = found[(found.method == "fitted_resid") & (found.target == "generalization") & found.control.isna()]
        assert row.value.item() == pytest.approx(expected)


class TestUntrained:
    SETTINGS = AnalysisConfig(fit_rows=20, fit_steps=5)

    def test_its_weights_are_not_those_that_training_started_from(self, stories, monkeypatch):
        """The run's seed would make them anew."""
        untrained = []
        make = type(stories.subject).untrained

        def spy(subject, seed):
            untrained.append(make(subject, seed))
            return untrained[-1]

        monkeypatch.setattr(type(stories.subject), "untrained", spy)
        conflicts = stories.frame[stories.frame.kind == "conflict"]
        for seed in range(3):
            effects.on_untrained(
                stories.subject,
                conflicts.iloc[::2],
                conflicts.iloc[1::2],
                "mlp.hook_post",
                self.SETTINGS,
                lambda _name, seed=seed: np.random.default_rng(seed),
            )
            start = dict(make(stories.subject, seed).model.named_parameters())
            drawn = dict(untrained[-1].model.named_parameters())
            random = [name for name in start if start[name].dim() > 1]
            assert random
            assert not any(torch.equal(start[name], drawn[name]) for name in random)

    def test_conflicts_count(self, stories):
        """Whatever it answers beforehand; the shares are those of the fitted vectors themselves."""
        conflicts = stories.frame[stories.frame.kind == "conflict"]
        train, test = conflicts.iloc[::2], conflicts.iloc[1::2]
        found = effects.on_untrained(stories.subject, train, test, "mlp.hook_post", self.SETTINGS, same_rng)
        network = stories.subject.untrained(int(same_rng("").integers(2**31)))
        everywhere = NeuronSet("", "all", torch.ones(2, 128, dtype=torch.bool), self.SETTINGS.norm_penalties[0])
        for target in TARGETS:
            inputs = by_group(train, 20, same_rng(""))
            (fitted,) = fit(network, inputs, "mlp.hook_post", [everywhere], target, self.SETTINGS)
            (after,) = Trials.on(network, test).run("mlp.hook_post", [fitted.shift])
            (row,) = found[found.target == NAMES[target]].to_dict("records")
            expected = intervals.share(after.behavior == target, test.group[after.index])
            assert tuple(row[name] for name in expected._fields) == expected
            assert row["n"] == len(test)


def test_accuracy_lost_on_both_kinds(planted, single_answer):
    """A strong shift takes all where it leads away, and none where it leads to."""
    strong, none = (intervention("resid_post", planted_shift(planted, size)) for size in (9.0, 0.0))
    lost = effects.lost(planted.subject, single_answer, {"strong": strong, "none": none})
    assert len(lost) == 8
    by = lost.set_index(["method", "target", "inputs"]).sort_index()
    assert (by.value["none"] == 0).all()
    assert by.value["strong"].to_dict() == {
        ("memorization", "memorized_only"): 0,
        ("generalization", "memorized_only"): 1,
        ("memorization", "inferred_only"): 1,
        ("generalization", "inferred_only"): 0,
    }
    assert by.n["strong", "memorization"].to_dict() == single_answer.kind.value_counts().drop("conflict").to_dict()
    assert (lost.ci_low < lost.ci_high).all()


def test_parts_and_doses_of_a_planted_shift(planted, trials, rng):
    """Of a vector in both layers, only the part in the layer that decides does anything; more of it does more."""
    shift = planted_shift(planted, 4.0)
    shift[0, 3] = 0.01
    alone = {f"layer {i} alone": shift * (torch.arange(2) == i)[:, None] for i in (0, 1)}
    without = {f"without layer {i}": shift - alone[f"layer {i} alone"] for i in (0, 1)}
    parts = [Candidate("parts", name, part) for name, part in ({"whole": shift} | without | alone).items()]
    tried = sweep({1: trials}, {1: parts}, "resid_post", {}, rng, [0.0, 0.5, 1.0]).tried
    reached = tried[(tried.measure == "reached") & (tried.dose == 1)].set_index("candidate").value
    layer = planted.dimension[0]
    assert reached[["whole", f"layer {layer} alone", f"without layer {1 - layer}"]].min() > 0.95
    assert reached[f"without layer {layer}"] < 0.05
    whole = tried[tried.candidate == "whole"].set_index(["measure", "dose"]).value
    before = trials.before[trials.before.behavior == -1]
    assert whole["log_odds", 0.0] == pytest.approx(before.log_odds.mean(), abs=1e-4)
    assert whole["log_odds"].is_monotonic_increasing
    assert whole["reached", 0.0] == 0
    assert (whole["wrong_way"] == 0).all()
