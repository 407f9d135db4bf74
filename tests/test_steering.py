"""Interventions act where they say and only there, find what was planted, and can be redone without memgen."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from memgen import activations, behavior, steering
from memgen.activations import SITES
from memgen.config import InputError

EDITABLE = [site for site in SITES if site != "resid_mid"]
SHAPE = (2, 32)


@pytest.fixture
def shift():
    """A vector for each of two layers of width 32."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def prepare(setting, frame=None, **options):
    return behavior.prepare(setting.model, setting.frame if frame is None else frame, setting.tokenizer, **options)


class TestAdding:
    @pytest.mark.parametrize("site", EDITABLE)
    def test_strength_zero_is_bit_equal_to_none(self, setting, site):
        prepared = prepare(setting, setting.frame.iloc[::4])
        vector = torch.ones(2, activations.width(setting.model, site)).cumsum(1).sin()
        plain = behavior.measure(setting.model, prepared)
        zero = behavior.measure(setting.model, prepared, steering.adding(setting.model, site, vector, 2, 0.0))
        none = behavior.measure(setting.model, prepared, steering.adding(setting.model, site, vector * 0, 2))
        real = behavior.measure(setting.model, prepared, steering.adding(setting.model, site, vector, 2))
        pd.testing.assert_frame_equal(zero, plain, check_exact=True)
        pd.testing.assert_frame_equal(none, plain, check_exact=True)
        assert not np.allclose(real.log_p_memorization.dropna(), plain.log_p_memorization.dropna(), atol=0.1)

    def test_strength_multiplies(self, setting, shift):
        prepared = prepare(setting, setting.frame.iloc[::4])
        one = behavior.measure(setting.model, prepared, steering.adding(setting.model, "attn_out", shift, 1, 4.0))
        other = behavior.measure(setting.model, prepared, steering.adding(setting.model, "attn_out", 4 * shift, 1))
        pd.testing.assert_frame_equal(one, other, check_exact=True)

    @torch.no_grad()
    def test_it_acts_from_the_last_prompt_tokens_on_and_nowhere_else(self, setting, shift):
        """Prompts of three lengths, so that the positions differ within a batch."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:9].copy()
        frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
        (batch,) = prepare(setting, frame)
        with activations.record(setting.model, SITES) as store:
            behavior.run(setting.model, batch)
        plain = {site: list(own) for site, own in store.items()}
        with (
            steering.adding(setting.model, "resid_post", shift, 2)(batch),
            activations.record(setting.model, SITES) as store,
        ):
            behavior.run(setting.model, batch)
        acted = torch.arange(batch.input_ids.shape[1])[None] >= batch.prompt_length[:, None] - 2
        assert len(set(acted.sum(1).tolist())) == 3
        for layer in (0, 1):
            for site in SITES:
                assert torch.equal(store[site][layer][~acted], plain[site][layer][~acted])
        first = plain["resid_post"][0]
        assert torch.equal(store["resid_post"][0], torch.where(acted[..., None], first + shift[0], first))
        last = store["resid_mid"][1] + store["mlp_out"][1]
        assert torch.equal(store["resid_post"][1], torch.where(acted[..., None], last + shift[1], last))

    def test_layers_of_zeros_are_left_alone(self, stories, shift):
        (batch,) = prepare(stories, stories.frame[stories.frame.kind == "conflict"])
        only_first = shift * torch.tensor([[1.0], [0.0]])
        with steering.adding(stories.model, "mlp_out", only_first, 1)(batch):
            handles = [len(block.mlp._forward_hooks) for block in activations.blocks(stories.model)]
        assert handles == [1, 0]

    def test_a_batch_equals_single_inputs_and_a_kept_prefix_the_full_run(self, setting, shift):
        n_tokens = setting.query_length
        context = steering.adding(setting.model, "resid_post", shift, n_tokens)
        frame = setting.frame.iloc[::4]
        whole = behavior.measure(setting.model, prepare(setting, frame), context)
        for options in ({"batch_size": 1}, {"keep": n_tokens}):
            again = behavior.measure(setting.model, prepare(setting, frame, **options), context)
            assert again.behavior.to_list() == whole.behavior.to_list()
            pd.testing.assert_frame_equal(again, whole, check_exact=False, rtol=0, atol=1e-4)

    def test_tokens_before_a_kept_prefix_are_refused(self, sums, shift):
        context = steering.adding(sums.model, "resid_post", shift, 2)
        with pytest.raises(ValueError, match="only the last 1"):
            behavior.measure(sums.model, prepare(sums, keep=1), context)

    @pytest.mark.parametrize("shape", [(32,), (1, 32), (3, 32), (2, 31), (2, 128)])
    def test_a_wrong_shape(self, sums, shape):
        with pytest.raises(ValueError, match=r"shift for resid_post must have the shape \(2, 32\), not \("):
            steering.adding(sums.model, "resid_post", torch.ones(shape), 1)

    def test_the_hidden_layer_is_wider(self, stories):
        steering.adding(stories.model, "mlp.hook_post", torch.ones(2, 128), 1)
        with pytest.raises(ValueError, match=r"\(2, 128\), not \(2, 32\)"):
            steering.adding(stories.model, "mlp.hook_post", torch.ones(2, 32), 1)


class TestStudyShift:
    TABLE = pd.DataFrame(
        {
            "site": ["resid_post"] * 6 + ["mlp_out"],
            "layer": [0, 0, 0, 1, 1, 1, 0],
            "neuron": [0, 1, 2, 0, 1, 2, 0],
            "r": [0.1, -0.9, 0.5, -0.5, 0.3, 0.0, 1.0],
            "nmd": [1.0, 2.0, -3.0, -4.0, 5.0, 6.0, 9.0],
        }
    )

    def test_top_neurons_by_hand(self):
        top = steering.top_neurons(self.TABLE, "resid_post", 3)
        assert top.index.to_list() == [1, 2, 3]  # equal |r|: the table's order

    def test_study_shift_by_hand(self):
        """alpha * sign(r) * |NMD|, even where the signs of r and NMD differ."""
        expected = torch.tensor([[0.0, -4.0, 6.0], [-8.0, 0.0, 0.0]])
        assert torch.equal(steering.study_shift(self.TABLE, "resid_post", 3, 2.0, (2, 3)), expected)
        whole = steering.study_shift(self.TABLE, "resid_post", 6, 1.0, (2, 3))
        assert torch.equal(whole, torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.0]]))

    @pytest.mark.parametrize("n", [7, 0, -1])
    def test_more_neurons_than_there_are(self, n):
        sentence = f"top N must be from 1 to 6, the number of neurons at resid_post, not {n}."
        with pytest.raises(InputError) as error:
            steering.study_shift(self.TABLE, "resid_post", n, 1.0, (2, 3))
        assert str(error.value) == sentence


class TestControls:
    @pytest.fixture
    def sparse(self):
        vectors = torch.zeros(SHAPE)
        vectors[0, 3], vectors[1, 5], vectors[1, 31] = 0.5, -2.0, 3.0
        return vectors

    def test_random_neurons_are_others_with_the_same_magnitudes(self, sparse):
        for seed in range(20):
            control = steering.random_neurons(sparse, np.random.default_rng(seed))
            assert sorted(control.abs()[control != 0].tolist()) == [0.5, 2.0, 3.0]
            assert not ((control != 0) & (sparse != 0)).any()

    def test_random_neurons_where_most_are_shifted(self):
        """Fewer than half are left, so they are drawn from all."""
        dense = torch.arange(1.0, 65).reshape(SHAPE)
        dense[0, :10] = 0.0
        control = steering.random_neurons(dense, np.random.default_rng(0))
        assert (control != 0).sum() == 54
        assert control.norm() == pytest.approx(dense.norm())
        assert not torch.equal(control.abs(), dense)

    def test_random_neurons_and_signs_vary(self, sparse):
        controls = [steering.random_neurons(sparse, np.random.default_rng(seed)) for seed in range(200)]
        where = torch.stack([control != 0 for control in controls]).sum(0)
        assert (where > 0).sum() == 61  # each of the others is drawn at times
        signs = torch.cat([control[control != 0].sign() for control in controls])
        assert abs(signs.mean()) < 0.15

    def test_random_direction_has_the_same_neurons_and_norms(self, shift):
        shift[0, 10:] = 0.0
        shift[1] = 0.0
        control = steering.random_direction(shift, np.random.default_rng(0))
        assert torch.equal(control != 0, shift != 0)
        assert control.norm(dim=1) == pytest.approx(shift.norm(dim=1))

    def test_random_directions_point_everywhere(self, shift):
        controls = [steering.random_direction(shift, np.random.default_rng(seed)) for seed in range(200)]
        cosines = [torch.cosine_similarity(c[0], shift[0], dim=0).item() for c in controls]
        assert abs(np.mean(cosines)) < 0.05
        assert np.std(cosines) == pytest.approx(1 / np.sqrt(32), rel=0.2)

    def test_least_correlated_neurons_have_the_same_magnitudes(self, sparse):
        r = np.linspace(-1, 1, 64)
        order = np.argsort(np.abs(r), kind="stable")[:3]
        table = pd.DataFrame({"site": "mlp_out", "layer": np.arange(64) // 32, "neuron": np.arange(64) % 32, "r": r})
        table = pd.concat([table.assign(site="attn_out", r=0.0), table]).sample(frac=1, random_state=0)
        draw = steering.least_correlated(table, "mlp_out")
        controls = [draw(sparse, np.random.default_rng(seed)) for seed in range(50)]
        for control in controls:
            assert sorted(control.abs()[control != 0].tolist()) == [0.5, 2.0, 3.0]
            assert sorted(torch.nonzero(control.flatten()).flatten().tolist()) == sorted(order)
        assert len({tuple(control.flatten()[order].tolist()) for control in controls}) > 20  # dealt and signed anew

    @pytest.mark.parametrize("method", ["study", "gradient-guided MLP"])
    def test_every_control_has_the_norm_of_its_shift(self, shift, method):
        table = pd.DataFrame({"site": "mlp_out", "layer": np.arange(64) // 32, "neuron": np.arange(64) % 32})
        table["r"] = np.random.default_rng(1).uniform(-1, 1, 64)
        kinds = steering.controls(method, table, "mlp_out")
        assert len(kinds) == {"study": 3}.get(method, 2)
        for draw in kinds.values():
            control = draw(shift, np.random.default_rng(0))
            assert control.norm() == pytest.approx(shift.norm())
            assert abs(torch.cosine_similarity(control.flatten(), shift.flatten(), dim=0)) < 0.5

    @pytest.mark.parametrize("draw", [steering.random_neurons, steering.random_direction])
    def test_the_generator_decides(self, sparse, draw):
        one, same, other = (draw(sparse, np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


class TestSets:
    def test_the_largest_share_by_hand(self):
        vectors = torch.tensor([[0.1, -5.0, 0.0, 2.0], [3.0, -0.2, 0.0, 1.0]])
        assert torch.nonzero(steering.largest(vectors, 0.25)).tolist() == [[0, 1], [1, 0]]
        assert steering.largest(vectors, 1.0).all()
        assert steering.largest(vectors, 0.01).sum() == 1

    def test_a_random_share_is_any(self):
        masks = [steering.random_mask((2, 10), 0.1, np.random.default_rng(seed)) for seed in range(200)]
        assert all(mask.sum() == 2 for mask in masks)
        often = torch.stack(masks).float().mean(0)
        assert often.min() > 0.02
        assert often.max() < 0.25

    def test_candidates(self):
        made = steering.layer_candidates((2, 3), [0.1, 0.3])
        assert list(made) == ["layer 0, penalty 0.1", "layer 1, penalty 0.1", "all, penalty 0.1", "all, penalty 0.3"]
        assert made["layer 1, penalty 0.1"][0].tolist() == [[False] * 3, [True] * 3]
        assert made["all, penalty 0.3"][0].all()
        assert [penalty for _, penalty in made.values()] == [0.1, 0.1, 0.1, 0.3]
        assert list(steering.mask_candidates({"a": self, "b": self}, [1, 2])) == [
            "a, penalty 1",
            "a, penalty 2",
            "b, penalty 1",
            "b, penalty 2",
        ]


class TestMeanDifference:
    def test_it_is_balanced_over_answers(self, setting):
        """Beside a computation from the recorded states; one answer has far more inputs than the other."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:20].copy()
        rng = np.random.default_rng(0)
        answers = pd.Series(
            np.where(np.arange(20) < 14, "one", np.where(np.arange(20) < 18, "two", "three")), frame.index
        )
        labels = pd.Series(rng.permutation([1, -1] * 10), frame.index)
        labels[answers == "two"], labels[answers == "three"] = [1, 1, 1, -1], 1
        labels.iloc[0] = 0
        prompts = behavior.prompts(setting.model, frame, setting.tokenizer)
        with torch.no_grad(), activations.record(setting.model, ["mlp_out"]) as store:
            behavior.run(setting.model, prompts)
        states = activations.at_last(store["mlp_out"], prompts.prompt_length).numpy()
        parts = []
        for answer in ("one", "two"):  # the third shows one behaviour only
            own = (answers == answer).to_numpy()
            parts.append(states[own & (labels == 1)].mean(0) - states[own & (labels == -1)].mean(0))
        for options in ({}, {"keep": 1}, {"batch_size": 3}):
            found = steering.mean_difference(
                setting.model, prepare(setting, frame, **options), labels, answers, "mlp_out"
            )
            np.testing.assert_allclose(found.numpy(), np.mean(parts, axis=0), atol=1e-4)

    def test_without_an_answer_of_both_behaviours_all_count_as_one(self, planted):
        before = behavior.measure(planted.model, prepare(planted)).behavior
        answers = before.map({1: "a", -1: "b"})
        found = steering.mean_difference(planted.model, prepare(planted), before, answers, "resid_post")
        layer, dimension = planted.dimension
        assert found[layer, dimension] > 0.5  # the planted one is what differs


class TestFitShift:
    ALL = torch.ones(SHAPE, dtype=torch.bool)

    @pytest.mark.parametrize("target", steering.TARGETS)
    def test_it_raises_the_targets_probability_on_its_inputs(self, setting, target):
        """That it leaves the parameters alone is checked at the end of every test (tests/conftest.py)."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:8]
        prepared = prepare(setting, frame, keep=setting.query_length)
        fitted = steering.fit_shift(setting.model, prepared, "resid_post", self.ALL, target, 1, 25, 0.1, 0.01)
        assert not fitted.requires_grad
        name = f"log_p_{behavior.NAMES[target]}"
        before = behavior.measure(setting.model, prepared)[name]
        after = behavior.measure(setting.model, prepared, steering.adding(setting.model, "resid_post", fitted, 1))[name]
        assert after.mean() > before.mean() + 0.5

    def test_zero_outside_the_allowed_neurons(self, sums):
        allowed = torch.zeros(SHAPE, dtype=torch.bool)
        allowed[1, 4:20] = True
        fitted = steering.fit_shift(sums.model, prepare(sums), "resid_post", allowed, -1, 1, 5, 0.1, 0.01)
        assert (fitted[~allowed] == 0).all()
        assert (fitted[allowed] != 0).all()

    def test_a_kept_prefix_fits_the_same(self, stories):
        """And the same inputs give the same vector, bit for bit."""
        frame = stories.frame[stories.frame.kind == "conflict"]
        full, again, kept = (
            steering.fit_shift(stories.model, prepare(stories, frame, **o), "resid_post", self.ALL, 1, 1, 3, 0.1, 0.01)
            for o in ({}, {}, {"keep": 3})
        )
        assert torch.equal(full, again)
        assert torch.allclose(full, kept, atol=1e-3)

    def test_frozen_parameters_stay_frozen_and_others_trainable(self, sums):
        model = copy.deepcopy(sums.model)
        model.transformer.wte.requires_grad_(False)
        wanted = [parameter.requires_grad for parameter in model.parameters()]
        steering.fit_shift(model, prepare(sums), "resid_post", self.ALL, 1, 1, 2, 0.1, 0.01)
        assert [parameter.requires_grad for parameter in model.parameters()] == wanted
        assert not all(wanted)
        with pytest.raises(ValueError, match="only the last 1"):  # after an error on the way, too
            steering.fit_shift(model, prepare(sums, keep=1), "resid_post", self.ALL, 1, 2, 2, 0.1, 0.01)
        assert [parameter.requires_grad for parameter in model.parameters()] == wanted
        assert all("forward" not in vars(block) for block in activations.blocks(model))

    def test_a_wrong_shape(self, sums):
        with pytest.raises(ValueError, match=r"neurons for resid_post must have the shape \(2, 32\), not \(1, 32\)"):
            steering.fit_shift(sums.model, prepare(sums), "resid_post", torch.ones(1, 32), 1, 1, 2, 0.1, 0.01)

    @pytest.mark.parametrize("keep", [None, 1])
    def test_several_at_once_are_each_as_if_alone(self, setting, keep):
        """Of different neurons, penalties and first layers."""
        frame = setting.frame[setting.frame.kind == "conflict"].iloc[:8]
        prepared = prepare(setting, frame, keep=keep)
        last, some = self.ALL.clone(), self.ALL.clone()
        last[0], some[:, ::3] = False, False
        masks, penalties = [self.ALL, last, some, self.ALL], [0.01, 0.01, 0.3, 3.0]
        options = ("resid_post", masks, penalties, -1, 1, 4, 0.1)
        together = steering.fit_shifts(setting.model, prepared, *options)
        for mask, penalty, fitted in zip(masks, penalties, together, strict=True):
            alone = steering.fit_shift(setting.model, prepared, "resid_post", mask, -1, 1, 4, 0.1, penalty)
            assert torch.allclose(fitted, alone, atol=2e-3)
            assert not fitted[~mask].any()
        assert together[3].norm() < together[0].norm()

    def test_no_input_has_the_answer(self, sums):
        only_memorized = sums.frame[sums.frame.kind == "memorized_only"]
        with pytest.raises(ValueError, match="No input has an answer by generalization"):
            steering.fit_shift(sums.model, prepare(sums, only_memorized), "resid_post", self.ALL, -1, 1, 2, 0.1, 0.01)

    @pytest.mark.parametrize("target", steering.TARGETS)
    @pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post"])
    def test_it_recovers_a_planted_direction(self, planted, site, target):
        """The penalty must be strong enough to take away what Adam's equal first steps give to every neuron."""
        layer, neuron = planted.dimension if site == "resid_post" else planted.neuron
        before = behavior.measure(planted.model, prepare(planted)).behavior
        opposite = prepare(planted, planted.frame[before == -target].iloc[:24], keep=1)
        allowed = torch.zeros(2, activations.width(planted.model, site), dtype=torch.bool)
        allowed[layer] = True
        fitted = steering.fit_shift(planted.model, opposite, site, allowed, target, 1, 150, 0.1, 1.0)
        assert target * fitted[layer, neuron] / fitted.norm() > 0.9  # the cosine with the planted one
        after = behavior.measure(planted.model, opposite, steering.adding(planted.model, site, fitted, 1))
        assert (after.behavior == target).mean() > 0.95


class TestFiles:
    @pytest.fixture
    def intervention(self, shift):
        how = {"N": 3, "alpha": 2.0, "chosen": "by hand"}
        return steering.Intervention("resid_post", 2, shift * torch.tensor([[0.0], [1.0]]), -shift, how)

    def test_shift_of_a_target(self, intervention, shift):
        assert torch.equal(intervention.shift(-1), -shift)
        assert intervention.shift(1) is intervention.memorization

    def test_round_trip(self, intervention, tmp_path):
        intervention.save(tmp_path / "interventions", "study")
        again = steering.Intervention.load(tmp_path / "interventions", "study")
        assert (again.site, again.n_tokens, again.how) == ("resid_post", 2, intervention.how)
        assert all(torch.equal(again.shift(target), intervention.shift(target)) for target in steering.TARGETS)

    def test_the_files_need_no_memgen(self, intervention, tmp_path):
        intervention.save(tmp_path, "study")
        tensors, about = (
            load_file(tmp_path / "study.safetensors"),
            json.loads((tmp_path / "study.json").read_text()),
        )
        assert {name: tuple(own.shape) for name, own in tensors.items()} == {
            "memorization": SHAPE,
            "generalization": SHAPE,
        }
        assert tensors["generalization"].dtype == torch.float32
        assert torch.equal(tensors["generalization"], intervention.generalization)
        layers = {"memorization": [1], "generalization": [0, 1]}
        assert about == {
            "site": "resid_post",
            "layers": layers,
            "positions": [-2, -1],
            "answer_tokens": "all",
            "N": 3,
            "alpha": 2.0,
            "chosen": "by hand",
        }

    def test_a_missing_intervention(self, tmp_path):
        with pytest.raises(InputError, match="No intervention 'guided' was found in"):
            steering.Intervention.load(tmp_path, "guided")


def steered_generation(folder, prompts, n_new, use_cache):
    """Greedy answers under the saved intervention, with nothing but transformers, safetensors and forward hooks."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    vectors = load_file(folder / "own.safetensors")["memorization"]
    n_tokens, n_prompt = len(json.loads((folder / "own.json").read_text())["positions"]), prompts.shape[1]
    body = model.transformer.h if hasattr(model, "transformer") else model.model.layers

    def hook_of(layer):
        seen = 0

        def hook(_module, _args, output):
            nonlocal seen
            hidden = output[0] if isinstance(output, tuple) else output
            position = seen + torch.arange(hidden.shape[1])
            seen += hidden.shape[1] if use_cache else 0
            new = hidden + (position >= n_prompt - n_tokens)[None, :, None] * vectors[layer]
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return hook

    for layer, block in enumerate(body):
        block.register_forward_hook(hook_of(layer))
    model.generation_config.eos_token_id = None  # do not stop
    options = {"max_new_tokens": n_new, "do_sample": False, "use_cache": use_cache}
    answers = model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)[:, n_prompt:]
    return answers.tolist()


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_anyone_can_recompute_it_with_and_without_a_cache(setting, shift, tmp_path, n_tokens):
    frame = setting.frame[setting.frame.kind == "conflict"].iloc[:12].copy()
    setting.model.save_pretrained(tmp_path / "model")
    steering.Intervention("resid_post", n_tokens, 0.7 * shift, -shift).save(tmp_path, "own")
    prompts = torch.tensor(np.stack(frame.input_ids)).long()
    n_new = len(setting.tokenizer(frame.answer_generalization.iloc[0], add_special_tokens=False).input_ids)
    said = steered_generation(tmp_path, prompts, n_new, use_cache=True)
    assert said == steered_generation(tmp_path, prompts, n_new, use_cache=False)

    # What was said with plain transformers becomes the inferred answer of half of the inputs: memgen must agree.
    joiner = " " if n_new == 1 else ""
    ordinary = [min(answer) > 2 for answer in said]
    text = [joiner.join(setting.tokenizer.convert_ids_to_tokens(answer)) for answer in said]
    hit = np.array(ordinary) & (np.arange(12) % 2 == 0)
    assert hit.sum() >= 3
    frame["answer_generalization"] = np.where(hit, text, frame.answer_generalization)
    frame["answer_memorization"] = frame.answer_generalization.shift(-1, fill_value="seal" if n_new == 1 else "0")

    intervention = steering.Intervention.load(tmp_path, "own")
    for options in ({}, {"keep": 3}):
        context = steering.adding(setting.model, "resid_post", intervention.shift(1), n_tokens)
        after = behavior.measure(setting.model, prepare(setting, frame, **options), context).behavior
        for label, answer, memorized, inferred in zip(
            after, said, frame.answer_memorization, frame.answer_generalization, strict=True
        ):
            wanted = [setting.tokenizer(a, add_special_tokens=False).input_ids for a in (memorized, inferred)]
            begins = [answer[: len(tokens)] == tokens for tokens in wanted]
            assert label == (1 if begins[0] else -1 if begins[1] else 0)
        assert (after == -1).sum() >= 3
