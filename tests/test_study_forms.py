"""Inputs as in the study: few groups, no grades, and answers with alternatives, or of 16 tokens against one.

A random network whose own answers are those of the inputs, so that both behaviours occur.
"""

import dataclasses
import functools
import string

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, intervals, prediction
from memgen.behavior import NAMES, TARGETS
from memgen.carryover import transfer
from memgen.config import AnalysisConfig
from memgen.localization import attribution, differences, patching, rankings, separation
from memgen.steering import effects, outcomes
from memgen.steering.fitting import NeuronSet, fit, inputs_to_fit
from memgen.steering.interventions import Intervention
from memgen.steering.shifts import Candidate, mean_difference, study_candidates
from memgen.steering.sweep import COSTS, best_trials, frontier, sweep
from memgen.steering.trials import Trials
from memgen.subject import Subject
from memgen.tasks.common import word_tokenizer
from tests.conftest import random_model

GROUPS = {"train": 5, "validation": 2, "test": 3}
KINDS = {"colours": ["aligned", "conflict"], "sums": ["conflict", "inferred_only"]}
LENGTH, LONG = 17, 16  # tokens of a prompt, and of a long answer
QUICK = AnalysisConfig(fit_steps=3, fit_rows=40, sweep_rows=30, sweep_draws=1, random_draws=2, norm_penalties=(0.1,))
RESID, MLP = "resid_post", "mlp.hook_post"


@dataclasses.dataclass(frozen=True)
class Study:
    subject: Subject
    frames: dict[str, pd.DataFrame]
    shape: str

    def labels(self, split):
        return behavior.measure(self.subject, behavior.prepare(self.subject, self.frames[split])).behavior

    def conflicts(self, split):
        return self.frames[split].query("kind == 'conflict'")

    def pairs(self, split):
        return behavior.flip_pairs(self.frames[split], self.labels(split))

    def dataset(self, split):
        frame = self.conflicts(split).assign(behavior=self.labels(split)).query("behavior != 0")
        states = prediction.read_states(self.subject, frame, [RESID])
        return prediction.Dataset(frame, states, prediction.readouts(self.subject, states[RESID], frame, frame))


@torch.no_grad()
def greedy(model, prompts, n_tokens):
    """The greedy answers [prompts n_tokens] of a model."""
    ids = torch.from_numpy(np.stack(prompts)).long()
    for _ in range(n_tokens):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids[:, -n_tokens:]


@functools.cache
def _study(shape):
    rng, letters = np.random.default_rng(1), string.ascii_letters
    tokenizer = word_tokenizer([*letters], ".", "")
    model = random_model("gpt2-2x32", tokenizer, LENGTH + LONG, 0.3)
    with torch.no_grad():
        model.transformer.wte.weight[:3] = 0  # no special token is ever the greedy one
    frames = {}
    for split, n_groups in GROUPS.items():
        rows: list[dict] = []
        prompts = np.pad(rng.integers(3, 55, (12 * n_groups, LENGTH - 1)), ((0, 0), (1, 0)), constant_values=1)
        swapped = np.hstack([prompts[:, :1], rng.permuted(prompts[:, 1:], axis=1)])
        said = [map("".join, map(tokenizer.convert_ids_to_tokens, greedy(model, p, LONG))) for p in (prompts, swapped)]
        differ = (answers for answers in zip(prompts, swapped, *said, strict=True) if answers[2][0] != answers[3][0])
        for pair, (prompt, variant, *answers) in zip(range(6 * n_groups), differ, strict=False):
            memorized, inferred = answers[:: 1 if pair % 2 else -1]
            others = [letter for letter in letters if letter not in memorized[0] + inferred[0]]
            if shape == "colours":
                inferred = inferred[0]
            own = [memorized[0], *rng.choice(others, pair % 4 if shape == "colours" else 0, replace=False)]
            about = {
                "kind": "conflict",
                "group": f"{split}{pair % n_groups}",
                "answer_memorization": "|".join(rng.permutation(own)),
                "answer_generalization": inferred,
            }
            rows += [{"input_ids": prompt, **about}, {"input_ids": variant, **about, "variant_of": len(rows)}]
            if pair % 2:
                beside = {"kind": "aligned", "answer_memorization": "|".join(sorted({*own, inferred}))}
                if shape == "sums":
                    beside = {"kind": "inferred_only", "answer_memorization": None}
                rows.append({"input_ids": prompt, **about, **beside})
        frame = pd.DataFrame(rows)
        frame["variant_of"] = frame.get("variant_of").fillna(-1).astype(int)
        texts = ["".join(tokenizer.convert_ids_to_tokens(ids[1:])) for ids in frame.input_ids]
        frames[split] = frame.assign(prompt=texts, memorized_share=np.nan, evidence=1)
    return Study(Subject(model, tokenizer), frames, shape)


@pytest.fixture(params=list(KINDS))
def study(request):
    return _study(request.param)


def make_rng(_name):
    return np.random.default_rng(5)


def is_bounded(table, low=0.0):
    """Values in their intervals, and these from `low` to 1; no interval where there is none."""
    assert ((table.ci_low <= table.value + 1e-9) | table.ci_low.isna()).all()
    assert ((table.value <= table.ci_high + 1e-9) | table.ci_high.isna()).all()
    assert (table.ci_low.dropna() >= low).all() and (table.ci_high.dropna() <= 1).all()
    return True


def test_both_behaviours_occur_and_batches_equal_single_inputs(study):
    frame = study.frames["test"]
    prepared = behavior.prepare(study.subject, frame, prefix=True)
    assert len(prepared) == (1 if study.shape == "colours" else 2)
    found = behavior.measure(study.subject, prepared)
    single = behavior.measure(study.subject, behavior.prepare(study.subject, frame, batch_size=1))
    assert found.behavior.to_list() == single.behavior.to_list()
    pd.testing.assert_frame_equal(found, single, check_dtype=False, rtol=0, atol=1e-3)
    assert found.behavior[frame.kind == "conflict"].value_counts().to_dict() == {1: 18, -1: 18}
    assert len(study.pairs("test")) == 18


def test_aligned_inputs_are_right_by_inference():
    study = _study("colours")
    frame, labels = study.frames["test"], study.labels("test")
    aligned = frame[frame.kind == "aligned"]
    said = study.subject.tokenizer.convert_ids_to_tokens(greedy(study.subject.model, aligned.input_ids, 1)[:, 0])
    assert behavior.accuracy(frame, labels, "aligned") == np.mean(aligned.answer_generalization == said)


class TestSteering:
    def trials(self, study):
        frame, labels = study.frames["validation"], study.labels("validation")
        return {target: Trials.make(study.subject, frame, labels, target, QUICK, make_rng("")) for target in TARGETS}

    def test_a_shift_of_strength_0_changes_nothing_and_a_sweep_says_what_kinds_lose(self, study, rng):
        zero, shift = torch.zeros(2, 32), torch.from_numpy(rng.standard_normal((2, 32))).float()
        tried = [Candidate("study", "zero", zero), Candidate("study", "some", shift)]
        candidates = {target: tried for target in TARGETS}
        drawn = {"random_direction": lambda shift, rng: shift.flip(1)}
        found = sweep(self.trials(study), candidates, RESID, drawn, rng)
        nothing = found.tried.query("candidate == 'zero' and measure != 'log_odds' and measure != 'stayed'")
        assert (nothing.value == 0).all()
        assert (found.tried.query("candidate == 'zero' and measure == 'stayed'").value == 1).all()
        kinds = set(KINDS[study.shape]) - {"conflict"}
        costs = {"best_control", "other", *(f"lost_{kind}" for kind in kinds)}
        assert set(frontier(found.tried).cost) == costs <= set(COSTS)
        assert len(best_trials(found.tried)) == 2
        is_bounded(found.tried.query("measure != 'log_odds'"), low=-1)

    def test_trials_are_single_passes(self, study, rng):
        trials = Trials.on(study.subject, study.frames["test"])
        shifts = [torch.from_numpy(rng.standard_normal((2, 32))).float() for _ in range(9)]
        for alone, together in zip(shifts, trials.run(RESID, shifts), strict=True):
            (outcome,) = trials.run(RESID, [alone])
            assert (outcome.behavior != together.behavior).mean() < 0.02  # near-ties, by rounding
            assert (outcome.log_odds - together.log_odds).abs().max() < 1e-2

    def test_fitted_on_conflicts_and_on_what_the_target_answers_right(self, study, rng):
        frame, labels = study.frames["train"], study.labels("train")
        for target in TARGETS:
            inputs = inputs_to_fit(frame, labels, target, 20, rng)
            beside = {kind for kind in KINDS[study.shape] if behavior.RIGHT_ANSWER.get(kind) == target}
            assert set(inputs.kind) == {"conflict"} | beside
            everywhere = NeuronSet("fitted", "all", torch.ones(2, 32, dtype=torch.bool), 0.01)
            settings = AnalysisConfig(fit_steps=25)
            (fitted,) = fit(study.subject, inputs, RESID, [everywhere], target, settings)
            trials = Trials.on(study.subject, inputs[inputs.kind == "conflict"])
            (after,) = trials.run(RESID, [fitted.shift])
            assert (target * (after.log_odds - trials.before.log_odds)).mean() > 0.5

    def test_outcomes_of_test_groups(self, study, neurons):
        shape = study.subject.shape(RESID)
        vectors = {name: study_candidates(neurons, RESID, [9], [4.0], shape, t)[0].shift for t, name in NAMES.items()}
        made = {"study": Intervention(RESID, 1, vectors["memorization"], vectors["generalization"])}
        conflicts = study.conflicts("test")
        trials = Trials.on(study.subject, conflicts, QUICK.random_draws)
        result = outcomes.on_test(trials, made, ["study"], neurons, make_rng)
        about = conflicts[["answer_memorization", "answer_generalization"]]
        result = result.merge(about.assign(in_flip_pair=True, in_sample=True), left_on="input", right_index=True)
        found = outcomes.summary(outcomes.by_population(result))
        is_bounded(found[found.measure.isin(outcomes.RATES)])
        is_bounded(found[found.measure == "net"], low=-1)
        is_bounded(outcomes.by_answer(result))
        lost = effects.lost(study.subject, study.frames["test"], made)
        assert set(lost.inputs) == set(KINDS[study.shape]) - {"conflict"}
        is_bounded(lost, low=-1)
        kl = effects.divergences(study.subject, study.frames["test"], made, neurons, QUICK, make_rng)
        assert (kl.value > 0).all()
        untrained = effects.on_untrained(study.subject, study.conflicts("train"), conflicts, MLP, QUICK, make_rng)
        is_bounded(untrained)

    def test_difference_in_means(self, study):
        """Where no answer has both behaviours, all inputs count as of one answer."""
        difference = mean_difference(study.subject, study.conflicts("train"), study.labels("train"), RESID)
        assert difference.isfinite().all() and difference.norm() > 0

    def test_what_carries_over(self, study, rng):
        part = {split: frame.assign(behavior=study.labels(split)) for split, frame in study.frames.items()}
        is_bounded(transfer.shift_matrix(study.subject, {"a": part}, QUICK, rng))


@pytest.fixture
def neurons(study):
    """The table of neurons, from the pairs of five groups."""
    accumulated = differences.accumulate(study.subject, study.frames["train"], study.pairs("train"), [RESID, MLP])
    table = differences.neuron_table(accumulated, 2, make_rng(""), make_rng(""), 200)
    attributed = attribution.attributions(study.subject, study.frames["train"], study.pairs("train"), [RESID, MLP])
    return table.merge(attributed, on=["site", "layer", "neuron"])


class TestLocalization:
    def test_statistics_beside_their_nulls(self, study, neurons):
        frame, pairs = study.frames["train"], study.pairs("train")
        assert pairs.group.nunique() == 5
        assert neurons.drop(columns="site").notna().all(axis=None)
        assert (neurons.q_value <= 1).all()
        accumulated = differences.accumulate(study.subject, frame, pairs, [RESID])
        assert differences.null_selection(accumulated, make_rng(""), 50, n_draws=20).value.notna().all()

    def test_a_layer_tells_the_members_of_a_pair(self, study):
        """Of two groups, of one, and of none."""
        differences_of = {
            split: separation.pair_differences(study.subject, study.frames[split], study.pairs(split), [RESID])
            for split in ("train", "validation")
        }
        held_out = study.pairs("validation")
        for some in (held_out, held_out[held_out.group == held_out.group[0]]):
            chosen = {RESID: differences_of["validation"][RESID][some.index]}
            found = separation.pair_auroc(differences_of["train"], chosen, some, make_rng(""), n_draws=20)
            assert found.value.between(0, 1).all()
            assert (found.query("measure == 'pair_auroc'").ci_low.isna() == (some.group.nunique() == 1)).all()

    def test_patching_nothing_and_everything(self, study):
        """All neurons of the last layer bring the first token, which is the whole of a memorized answer."""
        pairs, frame = study.pairs("validation"), study.frames["validation"]
        every = np.ones((2, 32), dtype=bool)
        last = every & (np.arange(2)[:, None] == 1)
        sets = pd.DataFrame({"site": RESID, "ranking": ["none", "all"], "end": "top", "share": 1.0})
        patched = patching.patch(study.subject, frame, pairs, sets.assign(chosen=[~every, last]))
        nothing = patched[patched.ranking == "none"]
        assert (nothing.value == 0).all()
        everything = patched[patched.ranking == "all"].groupby("target").value.mean()
        assert everything["memorization"] == 1
        assert everything["generalization"] == 1 or study.shape == "sums"
        is_bounded(intervals.estimate_by(patched, ["ranking", "target"], inputs="pair"))

    def test_ablation_asks_the_kinds_that_there_are(self, study, neurons):
        frame = study.frames["validation"]
        sets = rankings.neuron_sets(neurons, [MLP], [0.1], make_rng(""), ends=["top"])
        none = pd.DataFrame({"site": MLP, "ranking": ["none"], "chosen": [np.zeros((2, 128), dtype=bool)]})
        ablated = patching.ablate(study.subject, frame, study.conflicts("train"), pd.concat([sets, none]))
        found = intervals.estimate_by(ablated, ["ranking", "inputs"], inputs="input")
        is_bounded(found)
        assert sorted(set(found.inputs)) == KINDS[study.shape]
        intact = found[found.ranking == "none"].set_index("inputs").value
        for kind in KINDS[study.shape]:
            expected = 1 if kind == "conflict" else behavior.accuracy(frame, study.labels("validation"), kind)
            assert intact[kind] == expected


class TestPrediction:
    @pytest.fixture
    def datasets(self, study):
        return {split: study.dataset(split) for split in GROUPS}

    def test_probes_and_baselines_without_an_oracle(self, study, datasets, rng):
        probes = prediction.fit_probes(datasets["train"], sees=["hidden states"])
        baselines = prediction.fit_baselines(datasets["train"], datasets["validation"], 0)
        assert {probe.kind for probe in baselines} == {"input alone"}
        readings = prediction.reading_probes(datasets["train"])
        table = prediction.evaluate([*probes, *baselines, *readings], datasets, "conflicts")
        for number in ("accuracy", "auroc"):
            is_bounded(prediction.estimates(table, number))
        probe = prediction.find(probes, prediction.best_probe(table))
        baseline = prediction.find(baselines, prediction.best_baseline(table))
        assert -1 <= prediction.gain(probe, baseline, datasets["test"]).value <= 1
        last = readings[1]  # of the direct reading
        assert last.layer == 1
        assert last.correct(datasets["test"]).all()

    def test_probes_of_two_groups(self, rng):
        """A group may have a single label, so that some folds, or all, leave one label to learn from."""
        groups = np.repeat(["a", "b"], 20)
        for labels in (np.where(groups == "a", 1, -1), np.where((groups == "a") & (np.arange(40) % 2 == 0), 1, -1)):
            features = rng.standard_normal((40, 4)) + 3 * labels[:, None]
            probe = prediction.fit_probe(features, labels, groups)
            assert (probe.predict(features) == labels).mean() > 0.9

    def test_controls(self, datasets, rng):
        table, selectivity = prediction.control_task(datasets["train"], RESID, "hidden states", "conflicts", rng)
        is_bounded(prediction.estimates(table, "accuracy"))
        assert len(selectivity) == 2
        is_bounded(prediction.sparse_accuracy(datasets["train"], datasets["test"], RESID, [4], rng))
