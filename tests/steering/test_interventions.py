"""Interventions act where they say and only there, and can be redone without memgen."""

import json

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from memgen import activations, behavior
from memgen.activations import SITES
from memgen.behavior import TARGETS
from memgen.config import InputError
from memgen.steering.interventions import Intervention
from tests.conftest import hooks, tiny_model

from .conftest import SHAPE, adding, ragged, with_n_tokens


class TestAdding:
    """What the tests of steering compare with."""

    @torch.no_grad()
    def test_it_acts_from_the_last_prompt_tokens_on_and_nowhere_else(self, setting, shift):
        """Prompts of three lengths, so that the positions differ within a batch."""
        subject = with_n_tokens(setting, 2)
        (batch,) = behavior.prepare(subject, ragged(setting))
        with activations.record(subject.model, SITES) as store:
            behavior.run(subject, batch)
        plain = {site: list(layers) for site, layers in store.items()}
        with adding(subject, "resid_post", shift)(batch), activations.record(subject.model, SITES) as store:
            behavior.run(subject, batch)
        acted = torch.arange(batch.input_ids.shape[1])[None] >= batch.prompt_length[:, None] - 2
        assert len(set(acted.sum(1).tolist())) == 3
        for layer in (0, 1):
            for site in SITES:
                assert torch.equal(store[site][layer][~acted], plain[site][layer][~acted])
        first = plain["resid_post"][0]
        assert torch.equal(store["resid_post"][0], torch.where(acted[..., None], first + shift[0], first))
        last = store["resid_mid"][1] + store["mlp_out"][1]
        assert torch.equal(store["resid_post"][1], torch.where(acted[..., None], last + shift[1], last))

    def test_a_batch_equals_single_inputs_and_a_cached_prefix_the_full_run(self, setting, shift):
        subject = with_n_tokens(setting, setting.query_length)
        context, frame = adding(subject, "resid_post", shift), setting.frame.iloc[::4]
        whole = behavior.measure(subject, behavior.prepare(subject, frame), context)
        for options in ({"batch_size": 1}, {"prefix": True}):
            again = behavior.measure(subject, behavior.prepare(subject, frame, **options), context)
            assert again.behavior.to_list() == whole.behavior.to_list()
            pd.testing.assert_frame_equal(again, whole, check_exact=False, rtol=0, atol=1e-4)


class TestFiles:
    @pytest.fixture
    def made(self, shift):
        how = {"n_neurons": 3, "dose": 2.0, "chosen": "by hand"}
        return Intervention("resid_post", 2, shift * torch.tensor([[0.0], [1.0]]), -shift, how)

    def test_shift_of_a_target(self, made, shift):
        assert torch.equal(made.shift(-1), -shift)
        assert made.shift(1) is made.memorization

    def test_round_trip(self, made, tmp_path):
        made.save(tmp_path / "interventions", "study")
        again = Intervention.load(tmp_path / "interventions", "study")
        assert (again.site, again.n_tokens, again.how) == ("resid_post", 2, made.how)
        assert all(torch.equal(again.shift(target), made.shift(target)) for target in TARGETS)

    @pytest.mark.parametrize("other", [lambda v: v, lambda v: v[:], lambda v: v.flip(0).flip(0), torch.Tensor.detach])
    def test_vectors_that_share_memory(self, shift, tmp_path, other):
        both = torch.cat([shift, -shift])
        for one, two in ((shift, other(shift)), (both[:2], both[1:3]), (both[::2], both[1::2])):
            Intervention("resid_post", 1, one, two).save(tmp_path, "shared")
            again = Intervention.load(tmp_path, "shared")
            assert torch.equal(again.memorization, one)
            assert torch.equal(again.generalization, two)
            again.memorization.zero_()
            assert torch.equal(again.generalization, two), "each has memory of its own"

    def test_the_files_need_no_memgen(self, made, tmp_path):
        made.save(tmp_path, "study")
        tensors = load_file(tmp_path / "study.safetensors")
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            "memorization": SHAPE,
            "generalization": SHAPE,
        }
        assert tensors["generalization"].dtype == torch.float32
        assert torch.equal(tensors["generalization"], made.generalization)
        assert json.loads((tmp_path / "study.json").read_text()) == {
            "site": "resid_post",
            "layers": {"memorization": [1], "generalization": [0, 1]},
            "positions": [-2, -1],
            "answer_tokens": "all",
            **made.how,
        }

    def test_a_missing_intervention(self, tmp_path):
        with pytest.raises(InputError, match="No intervention 'guided' was found in"):
            Intervention.load(tmp_path, "guided")


@pytest.fixture(params=[*activations.ARCHITECTURES, "gpt_neox sequential"])
def model(request):
    yield (model := tiny_model(request.param, window=64))
    assert hooks(model) == 0


class TestApply:
    """On every architecture that is let in, what `generate` computes is what full passes with edits by hand compute."""

    PROMPTS = ([5, 6, 7, 8, 9, 10], [11, 12, 13, 14])
    N_NEW = 3

    def intervention(self, model, site="resid_post", n_tokens=2):
        shape = (len(activations.blocks(model)), activations.width(model, site))
        shift = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        return Intervention(site, n_tokens, shift, -shift)

    def by_hand(self, model, made, prompt, dose):
        """Greedy tokens and their logits, each from a pass over the whole text."""
        ids, logits = list(prompt), []
        for _ in range(self.N_NEW):
            where = (torch.arange(len(ids)) >= len(prompt) - made.n_tokens)[:, None]
            edits = [
                activations.Edit(made.site, layer, lambda h, added=where * dose * vector: h + added)
                for layer, vector in enumerate(made.generalization)
            ]
            with activations.edit(model, edits):
                logits.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1])
            ids.append(int(logits[-1].argmax()))
        return ids[len(prompt) :], torch.stack(logits)

    def generate(self, model, ids, mask, **settings):
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=self.N_NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **settings,
        )
        return out.sequences[:, ids.shape[1] :].tolist(), torch.stack(out.logits, dim=1)

    @pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post", "attn_out"])
    @torch.no_grad()
    def test_generation_in_a_padded_batch(self, model, site):
        made = self.intervention(model, site)
        longest = max(map(len, self.PROMPTS))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in self.PROMPTS])
        mask = (ids > 0).long()
        with made.apply(model, "generalization", dose=0.5):
            tokens, logits = self.generate(model, ids, mask)
        lengths = torch.tensor([len(prompt) for prompt in self.PROMPTS])
        with made.apply(model, "generalization", dose=0.5, prompt_length=lengths):
            again = self.generate(model, ids, mask, use_cache=False)
        assert again[0] == tokens
        for row, prompt in enumerate(self.PROMPTS):
            by_hand = self.by_hand(model, made, prompt, 0.5)
            assert tokens[row] == by_hand[0]
            assert_close(logits[row], by_hand[1], rtol=0, atol=1e-4)
            assert_close(again[1][row], by_hand[1], rtol=0, atol=1e-4)

    @torch.no_grad()
    def test_right_padding_and_dose_zero(self, model):
        made, (long, short) = self.intervention(model), self.PROMPTS
        ids = torch.tensor([long, [*short, 0, 0]])
        plain = model(ids, attention_mask=(ids > 0).long()).logits
        with made.apply(model, "memorization"):
            both = model(ids, attention_mask=(ids > 0).long()).logits
            alone = model(torch.tensor([short])).logits[0, -1]
        assert_close(both[1, len(short) - 1], alone, rtol=0, atol=1e-4)
        assert not torch.allclose(both[1, len(short) - 1], plain[1, len(short) - 1], atol=0.1)
        with made.apply(model, "memorization", dose=0.0):
            assert torch.equal(model(ids, attention_mask=(ids > 0).long()).logits, plain)

    def test_layers_of_zeros_are_left_alone(self, stories, shift):
        only_first = shift * torch.tensor([[1.0], [0.0]])
        with Intervention("mlp_out", 1, only_first, -only_first).apply(stories.subject.model, "memorization"):
            handles = [len(block.mlp._forward_hooks) for block in activations.blocks(stories.subject.model)]
        assert handles == [1, 0]

    def test_bad_input(self, model):
        made, ids = self.intervention(model), torch.tensor([self.PROMPTS[0]])
        with (
            pytest.raises(InputError, match="target 'neither' is unknown; allowed are gen"),
            made.apply(model, "neither"),
        ):
            pass
        smaller = Intervention("resid_post", 1, torch.ones(1, 3), torch.ones(1, 3))
        with pytest.raises(InputError, match=r"shape \[1, 3\]; the model needs"), smaller.apply(model, "memorization"):
            pass
        with pytest.raises(InputError, match="say the prompt_length"), made.apply(model, "memorization"):
            model(ids, use_cache=False)


class TestGguf:
    @torch.no_grad()
    def test_its_directions_added_after_their_blocks_steer_alike(self, tmp_path):
        """Where every token is steered, as llama.cpp does it."""
        model, ids = tiny_model("llama"), torch.tensor([[5, 6, 7, 8]])
        shift = torch.randn(len(activations.blocks(model)), 32, generator=torch.Generator().manual_seed(3))
        shift[0] = 0
        made = Intervention("resid_post", ids.shape[1], -shift, shift)
        made.export_gguf(tmp_path / "made.gguf", "generalization", "llama", dose=2.0)
        reader = gguf.GGUFReader(tmp_path / "made.gguf")
        assert reader.get_field("general.architecture").contents() == "controlvector"
        assert reader.get_field("controlvector.model_hint").contents() == "llama"
        read = {int(tensor.name.split(".")[1]): torch.tensor(tensor.data) for tensor in reader.tensors}
        assert reader.get_field("controlvector.layer_count").contents() == len(read) == len(shift) - 1
        edits = [activations.Edit("resid_post", layer, lambda h, v=vector: h + v) for layer, vector in read.items()]
        with activations.edit(model, edits):
            expected = model(ids).logits
        with made.apply(model, "generalization", dose=2.0):
            assert_close(model(ids).logits, expected)

    def test_what_llama_cpp_cannot_do(self, shift, tmp_path):
        for site, vectors, message in (
            ("mlp_out", shift, "this shift is for mlp_out"),
            ("resid_post", shift, "nothing after the first"),
        ):
            with pytest.raises(InputError, match=message):
                Intervention(site, 1, vectors, vectors).export_gguf(tmp_path / "x.gguf", "memorization", "llama")
        assert not list(tmp_path.iterdir())


def steered_generation(folder, prompts, n_new, use_cache):
    """Greedy answers under the saved intervention, with nothing but transformers, safetensors and forward hooks."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    vectors = load_file(folder / "made.safetensors")["memorization"]
    n_tokens, n_prompt = len(json.loads((folder / "made.json").read_text())["positions"]), prompts.shape[1]
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
    frame, tokenizer = setting.frame[setting.frame.kind == "conflict"].iloc[:12].copy(), setting.subject.tokenizer
    setting.subject.model.save_pretrained(tmp_path / "model")
    Intervention("resid_post", n_tokens, 0.7 * shift, -shift).save(tmp_path, "made")
    prompts = torch.tensor(np.stack(frame.input_ids)).long()
    n_new = len(tokenizer(frame.answer_generalization.iloc[0], add_special_tokens=False).input_ids)
    generated = steered_generation(tmp_path, prompts, n_new, use_cache=True)
    assert generated == steered_generation(tmp_path, prompts, n_new, use_cache=False)

    # What plain transformers generate becomes the inferred answer of half of the inputs: memgen must agree.
    joiner = " " if n_new == 1 else ""
    ordinary = [min(answer) > 2 for answer in generated]
    text = [joiner.join(tokenizer.convert_ids_to_tokens(answer)) for answer in generated]
    hit = np.array(ordinary) & (np.arange(12) % 2 == 0)
    assert hit.sum() >= 3
    frame["answer_generalization"] = np.where(hit, text, frame.answer_generalization)
    frame["answer_memorization"] = frame.answer_generalization.shift(-1, fill_value="seal" if n_new == 1 else "0")

    made, subject = Intervention.load(tmp_path, "made"), with_n_tokens(setting, n_tokens)
    for options in ({}, {"prefix": True}):
        context = adding(subject, "resid_post", made.shift(1))
        after = behavior.measure(subject, behavior.prepare(subject, frame, **options), context).behavior
        for label, answer, memorized, inferred in zip(
            after, generated, frame.answer_memorization, frame.answer_generalization, strict=True
        ):
            wanted = [tokenizer(a, add_special_tokens=False).input_ids for a in (memorized, inferred)]
            begins = [answer[: len(tokens)] == tokens for tokens in wanted]
            assert label == (1 if begins[0] else -1 if begins[1] else 0)
        assert (after == -1).sum() >= 3
