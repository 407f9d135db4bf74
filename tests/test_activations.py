"""Sites are where they say, edits do what they say and nothing else, and no hook outlives its context."""

import copy
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from memgen import activations, behavior
from memgen.activations import ARCHITECTURES, READ_ONLY, SITES, Edit
from memgen.config import InputError
from memgen.subject import Subject
from tests.conftest import hooks, tiny_model

EDITABLE = [site for site in SITES if site not in READ_ONLY]
EXACT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def ids():
    return torch.randint(3, 40, (3, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[*ARCHITECTURES, "gpt_neox sequential"])
def model(request):
    """A tiny random model of each architecture, which every test leaves as it was."""
    shared = tiny_model(request.param)
    weights = copy.deepcopy(shared.state_dict())
    yield shared
    assert hooks(shared) == 0
    assert all(torch.equal(value, weights[name]) for name, value in shared.state_dict().items())


def is_parallel(model):
    return getattr(model.config, "use_parallel_residual", False)


def sites_of(model):
    return [site for site in SITES if not (is_parallel(model) and site == "resid_mid")]


@torch.no_grad()
def read(model, ids, sites=None, **settings):
    with activations.record(model, sites or sites_of(model)) as store:
        logits = model(ids, **settings).logits
    return dict(store), logits


@torch.no_grad()
def logits_under(model, ids, *edits):
    with activations.edit(model, edits):
        return model(ids).logits


def add(site, layer, vector):
    return Edit(site, layer, lambda h: h + vector)


def some_vector(model, site):
    return torch.randn(activations.width(model, site), generator=torch.Generator().manual_seed(2))


def one_neuron(model, site, value, neuron=5):
    """A vector along one neuron: a constant on all of them would be taken away by the next layer norm."""
    vector = torch.zeros(activations.width(model, site))
    vector[neuron] = value
    return vector


def blocks_of(model):
    return model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers


def same(x):
    return x


def parts_of(model, block):
    """What a block does: norm, [heads], projection, norm; norm, hidden layer, projection, norm."""
    kind, mlp = model.config.model_type, block.mlp
    if kind == "gpt2":
        return block.ln_1, block.attn.c_proj, same, block.ln_2, lambda x: mlp.act(mlp.c_fc(x)), mlp.c_proj, same
    if kind == "gpt_neox":
        attention = block.input_layernorm, block.attention.dense, same
        mlp_in = block.post_attention_layernorm, lambda x: mlp.act(mlp.dense_h_to_4h(x))
        return *attention, *mlp_in, mlp.dense_4h_to_h, same

    def gated(x):
        gate, up = mlp.gate_up_proj(x).chunk(2, -1) if kind == "phi3" else (mlp.gate_proj(x), mlp.up_proj(x))
        return up * (mlp.activation_fn if kind == "phi3" else mlp.act_fn)(gate)

    project, after_attention, out = block.self_attn.o_proj, block.post_attention_layernorm, mlp.down_proj
    if kind == "olmo2":
        return same, project, after_attention, same, gated, out, block.post_feedforward_layernorm
    if kind in ("gemma2", "gemma3_text"):
        before_mlp, after_mlp = block.pre_feedforward_layernorm, block.post_feedforward_layernorm
        return block.input_layernorm, project, after_attention, before_mlp, gated, out, after_mlp
    return block.input_layernorm, project, same, block.post_attention_layernorm, gated, out, same


@torch.no_grad()
def by_hand(model, store):
    """Each site from those just before it: {(site, layer): activations}. The heads' outputs are left out."""
    expected = {}
    for layer, block in enumerate(blocks_of(model)):
        at = {site: layers[layer] for site, layers in store.items()}
        first_norm, project, after_attention, before_mlp, hidden, out, after_mlp = parts_of(model, block)
        expected["attn_out", layer] = after_attention(project(at["attn.hook_z"]))
        if is_parallel(model):
            read_by_mlp, total = at["resid_pre"], at["resid_pre"] + at["attn_out"] + at["mlp_out"]
        else:
            read_by_mlp, total = at["resid_mid"], at["resid_mid"] + at["mlp_out"]
            expected["resid_mid", layer] = at["resid_pre"] + at["attn_out"]
        expected["mlp.hook_post", layer] = hidden(before_mlp(read_by_mlp))
        expected["mlp_out", layer] = after_mlp(out(at["mlp.hook_post"]))
        expected["resid_post", layer] = total
        if layer:
            expected["resid_pre", layer] = store["resid_post"][layer - 1]
            expected["resid_post_normed", layer - 1] = first_norm(at["resid_pre"])
    body = model.base_model
    final = next(getattr(body, name) for name in ("ln_f", "final_layer_norm", "norm") if hasattr(body, name))
    expected["resid_post_normed", layer] = final(at["resid_post"])
    return expected


def test_the_sites_are_those_of_the_architecture(model, ids):
    store, _ = read(model, ids)
    for (site, layer), expected in by_hand(model, store).items():
        assert expected.std() > 0.1
        assert_close(store[site][layer], expected, **EXACT, msg=f"{site} of layer {layer}")


def test_residual_stream_equals_that_of_hugging_face(model, ids):
    store, logits = read(model, ids)
    # A copy, since Hugging Face leaves hooks of its own on a model that was asked for hidden states.
    with torch.no_grad():
        theirs = copy.deepcopy(model)(ids, output_hidden_states=True)
    assert torch.equal(logits, theirs.logits)
    assert len(store["resid_pre"]) == len(store["resid_post"]) == len(theirs.hidden_states) - 1 == 2
    for layer in range(2):
        assert torch.equal(store["resid_pre"][layer], theirs.hidden_states[layer])
    assert torch.equal(store["resid_post"][0], theirs.hidden_states[1])
    assert torch.equal(store["resid_post_normed"][1], theirs.hidden_states[2])
    assert not torch.allclose(store["resid_post"][1], theirs.hidden_states[2])


def test_sites_of_trained_shapes_add_up_bit_for_bit(stories):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, stories.subject.model.config.vocab_size, (3, 7), generator=generator)
    store, _ = read(stories.subject.model, ids)
    for layer in range(2):
        assert torch.equal(store["resid_mid"][layer], store["resid_pre"][layer] + store["attn_out"][layer])
        assert torch.equal(store["resid_post"][layer], store["resid_mid"][layer] + store["mlp_out"][layer])


def test_a_heads_output_is_its_attention_times_its_values(sums):
    """The second head of the first layer, from GPT-2's weights."""
    model = sums.subject.model
    store, _ = read(model, torch.tensor([[3, 5, 4, 9, 3, 11, 6]]))
    attention, size = model.transformer.h[0].attn, 32 // model.config.n_head
    with torch.no_grad():
        normed = model.transformer.h[0].ln_1(store["resid_pre"][0])
        query, key, value = (part[..., size : 2 * size] for part in attention.c_attn(normed).split(32, -1))
        scores = (query @ key.mT / size**0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
        expected = scores.softmax(-1) @ value
    assert torch.allclose(store["attn.hook_z"][0][..., size : 2 * size], expected, atol=1e-5)


def test_width_is_that_of_the_recorded_activations(model, ids):
    store, _ = read(model, ids)
    for site, layers in store.items():
        assert layers[0].shape[-1] == activations.width(model, site)


def test_reading_changes_nothing_in_any_order(model, ids):
    with torch.no_grad():
        plain = model(ids).logits
    store, logits = read(model, ids)
    backwards, again = read(model, ids, sites_of(model)[::-1])
    assert torch.equal(plain, logits)
    assert torch.equal(plain, again)
    for site in store:
        alone, _ = read(model, ids, [site])
        for layer in range(2):
            assert torch.equal(store[site][layer], backwards[site][layer])
            assert torch.equal(store[site][layer], alone[site][layer])


def test_a_further_pass_replaces_the_record(model, ids):
    with torch.no_grad(), activations.record(model, ["resid_post"]) as store:
        model(ids[:1])
        first = store["resid_post"][1]
        model(ids[1:])
    assert first.shape[0] == 1
    assert store["resid_post"][1].shape[0] == 2


def test_records_are_part_of_the_graph(model, ids):
    with activations.record(model, ["mlp.hook_post"]) as store:
        total = model(ids).logits.sum()
    gradients = torch.autograd.grad(total, store["mlp.hook_post"])
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_after_a_cache_the_sites_are_those_of_the_whole(model, ids):
    whole, logits = read(model, ids)
    with torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).past_key_values
    rest, rest_logits = read(model, ids[:, 4:], past_key_values=cache)
    assert_close(rest_logits, logits[:, 4:], **EXACT)
    for site, layers in rest.items():
        for layer, activation in enumerate(layers):
            assert_close(activation, whole[site][layer][:, 4:], **EXACT)


@pytest.mark.parametrize("side", ["left", "right"])
def test_in_a_padded_batch_the_sites_are_those_of_each_prompt_alone(model, ids, side):
    lengths = (7, 3, 6)
    real = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    if side == "left":
        real = real.flip(1)
    padded = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        padded[row, real[row]] = ids[row, :length]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    store, logits = read(model, padded, attention_mask=real.long(), position_ids=positions)
    for row, length in enumerate(lengths):
        alone, its_logits = read(model, ids[row : row + 1, :length])
        assert_close(logits[row, real[row]], its_logits[0], **EXACT)
        for site, layers in alone.items():
            for layer, activation in enumerate(layers):
                assert_close(store[site][layer][row, real[row]], activation[0], **EXACT)


@pytest.mark.parametrize("site", EDITABLE)
class TestEdit:
    def test_strength_zero_is_bit_equal(self, model, ids, site):
        with torch.no_grad():
            plain = model(ids).logits
        vector = some_vector(model, site)
        for layer in range(2):
            assert torch.equal(logits_under(model, ids, add(site, layer, 0.0 * vector)), plain)
            assert not torch.allclose(logits_under(model, ids, add(site, layer, vector)), plain)

    def test_plus_and_minus_restore(self, model, ids, site):
        with torch.no_grad():
            plain = model(ids).logits
        vector = some_vector(model, site)
        for layer in range(2):
            both = logits_under(model, ids, add(site, layer, vector), add(site, layer, -vector))
            assert torch.allclose(both, plain, atol=1e-4)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, plain)

    def test_a_sentinel_changes_the_logits_from_its_position_on(self, model, ids, site):
        where = torch.zeros(ids.shape[1], 1)
        where[4] = 1e3
        with torch.no_grad():
            plain = model(ids).logits
        for layer in range(2):
            changed = logits_under(model, ids, add(site, layer, where * one_neuron(model, site, 1.0)))
            assert torch.equal(changed[:, :4], plain[:, :4])
            assert (changed[:, 4] - plain[:, 4]).abs().amax(-1).min() > 0.1

    def test_a_vector_is_added_there_alone_and_goes_on_as_it_must(self, model, ids, site):
        vector, (plain, _) = some_vector(model, site), read(model, ids)
        for layer in range(2):
            with activations.edit(model, [add(site, layer, vector)]):
                edited, _ = read(model, ids)
            assert torch.equal(edited[site][layer], plain[site][layer] + vector)
            # From the edited site on, every other site follows from the one before it.
            for (other, place), expected in by_hand(model, edited).items():
                if (other, place) != (site, layer):
                    assert_close(edited[other][place], expected, **EXACT, msg=f"{other} of layer {place}")
            # What comes before is untouched.
            stream = ("resid_post", "resid_post_normed") if site == "resid_pre" else ()  # between two blocks
            for earlier in range(layer):
                untouched = [other for other in plain if other not in stream]
                assert all(torch.equal(edited[other][earlier], plain[other][earlier]) for other in untouched)
            for other in SITES[: SITES.index(site)]:
                if other in plain:
                    assert torch.equal(edited[other][layer], plain[other][layer])
            # Attention is not computed by hand, but the changed stream enters it.
            for later in range(layer if site == "resid_pre" else layer + 1, 2):
                assert not torch.allclose(edited["attn.hook_z"][later], plain["attn.hook_z"][later])

    def test_the_activations_themselves_are_not_changed(self, model, ids, site):
        plain, _ = read(model, ids, [site])
        for layer in range(2):
            with (
                torch.no_grad(),
                activations.record(model, [site]) as store,
                activations.edit(model, [add(site, layer, 9.0)]),
            ):
                model(ids)
            assert torch.equal(store[site][layer], plain[site][layer])  # the record saw it before the edit

    def test_while_generating_with_a_cache_it_acts_once_at_each_token(self, model, ids, site):
        """A pass over all tokens for each new one, with the edit at each, gives the same tokens and logits."""
        n_seen, vector = [], 0.3 * some_vector(model, site)

        def change(h):
            n_seen.append(h.shape[1])
            return h + vector

        def generate(use_cache):
            return model.generate(
                ids[:1],
                attention_mask=torch.ones_like(ids[:1]),
                max_new_tokens=5,
                do_sample=False,
                use_cache=use_cache,
                output_logits=True,
                return_dict_in_generate=True,
            )

        plain = generate(use_cache=True)
        with activations.edit(model, [Edit(site, 1, change)]):
            cached = generate(use_cache=True)
            assert n_seen == [7, 1, 1, 1, 1]
            afresh = generate(use_cache=False)
        assert n_seen[5:] == [7, 8, 9, 10, 11]
        assert torch.equal(cached.sequences, afresh.sequences)
        assert_close(torch.stack(cached.logits), torch.stack(afresh.logits), rtol=0, atol=1e-4)
        assert not torch.allclose(torch.stack(cached.logits)[0], torch.stack(plain.logits)[0], atol=1e-2)


def test_edits_of_one_site_apply_in_the_given_order(model, ids):
    plain, _ = read(model, ids, ["resid_post"])
    double, plus = Edit("resid_post", 0, lambda h: h * 2), Edit("resid_post", 0, lambda h: h + 1)
    with activations.edit(model, [double, plus]):
        one, _ = read(model, ids, ["resid_post"])
    with activations.edit(model, [plus, double]):
        other, _ = read(model, ids, ["resid_post"])
    assert torch.equal(one["resid_post"][0], plain["resid_post"][0] * 2 + 1)
    assert torch.equal(other["resid_post"][0], (plain["resid_post"][0] + 1) * 2)


def test_resid_post_of_a_layer_is_resid_pre_of_the_next(model, ids):
    vector = one_neuron(model, "resid_post", 3.0)
    assert torch.equal(
        logits_under(model, ids, add("resid_post", 0, vector)),
        logits_under(model, ids, add("resid_pre", 1, vector)),
    )


def test_a_block_that_is_given_its_input_by_name(sums):
    """As some callers in transformers do."""
    hidden = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(2))
    block = activations.blocks(sums.subject.model)[0]
    with torch.no_grad(), activations.edit(sums.subject.model, [add("resid_pre", 0, 1.0)]):
        by_position, by_name = block(hidden), block(hidden_states=hidden)
    with torch.no_grad():
        assert torch.equal(by_name, by_position)
        assert torch.equal(by_name, block(hidden + 1.0))
        assert not torch.equal(by_name, block(hidden))


class TestHooksAreGone:
    """Every test checks this at its end, too."""

    def test_after_a_normal_exit(self, model, ids):
        with activations.record(model, sites_of(model)), activations.edit(model, [add("resid_post", 0, 1.0)]):
            assert hooks(model) == 2 * len(sites_of(model)) + 1
            model(ids)
        assert hooks(model) == 0

    def test_after_an_exception_in_the_context(self, model):
        with (
            pytest.raises(KeyError, match="mine"),
            activations.record(model, sites_of(model)),
            activations.edit(model, [add("attn_out", 1, 1.0)]),
        ):
            raise KeyError("mine")
        assert hooks(model) == 0

    def test_after_an_exception_in_an_edit(self, model, ids):
        wrong = add("mlp_out", 0, torch.zeros(31))
        with (
            pytest.raises(RuntimeError, match="31"),
            activations.edit(model, [add("resid_pre", 0, 1.0), wrong]),
        ):
            model(ids)
        assert hooks(model) == 0

    @pytest.mark.parametrize("site", READ_ONLY)
    def test_after_an_edit_that_is_refused(self, model, site):
        edits = [add("resid_pre", 0, 1.0), add(site, 0, 1.0)]
        with (
            pytest.raises(ValueError, match=f"{site} can be recorded but not edited: edit {READ_ONLY[site]}"),
            activations.edit(model, edits),
        ):
            pytest.fail("the context must not begin")
        assert hooks(model) == 0


@pytest.mark.parametrize("site", ["resid_past", "hook_post", ""])
def test_unknown_site(model, site):
    with pytest.raises(ValueError, match=r"is unknown; allowed are resid_pre, attn\.hook_z, attn_out"):
        activations.width(model, site)
    with pytest.raises(ValueError, match="is unknown"), activations.record(model, ["resid_pre", site]):
        pytest.fail("the context must not begin")
    with pytest.raises(ValueError, match="is unknown"), activations.edit(model, [add(site, 0, 1.0)]):
        pytest.fail("the context must not begin")


@pytest.mark.parametrize("layer", [-1, 2])
def test_unknown_layer(model, layer):
    with (
        pytest.raises(ValueError, match=f"The layer {layer} does not exist; allowed are 0 to 1"),
        activations.edit(model, [add("resid_pre", 0, 1.0), add("resid_pre", layer, 1.0)]),
    ):
        pytest.fail("the context must not begin")


def test_a_parallel_residual_has_no_middle():
    model = tiny_model("gpt_neox")
    with pytest.raises(InputError, match="parallel residual"), activations.record(model, SITES):
        pytest.fail("the context must not begin")
    assert hooks(model) == 0


@pytest.mark.parametrize("model_type", ["bloom", "gptj", "granite", "cohere", "falcon", "gemma3", "mixtral"])
def test_an_architecture_that_is_not_tested_is_refused_by_name_before_its_weights_are_read(model_type, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"'{model_type}'.*gpt2, .*olmo2"):
        Subject.load(tmp_path)


def test_a_model_that_is_not_tested_is_refused():
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 40}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **sizes))
    with pytest.raises(InputError, match="'bloom'"), activations.record(model, ["resid_post"]):
        pytest.fail("the context must not begin")


def test_a_folder_that_does_not_say_its_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32}))
    with pytest.raises(InputError, match="None"):
        Subject.load(tmp_path)


def test_at_last_takes_each_prompts_last_token():
    layers = [torch.arange(24.0).reshape(2, 4, 3) + 100 * layer for layer in range(2)]
    last = activations.at_last(layers, torch.tensor([2, 4]), "resid_post")
    assert last.tolist() == [[[3, 4, 5], [103, 104, 105]], [[21, 22, 23], [121, 122, 123]]]


class TestHalfPrecision:
    @pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
    def half(self, stories, request):
        model = copy.deepcopy(stories.subject.model).to(request.param)
        return Subject(model, stories.subject.tokenizer)

    def test_is_read_in_single_precision(self, stories, half):
        frame = stories.frame.iloc[::9]
        expected = behavior.states(stories.subject, frame, SITES)
        for site, states in behavior.states(half, frame, SITES).items():
            assert states.dtype == np.float32
            assert np.abs(states - expected[site]).mean() < 0.05 * np.abs(expected[site]).mean()
        measured = behavior.measure(half, behavior.prepare(half, frame))
        single = behavior.measure(stories.subject, behavior.prepare(stories.subject, frame))
        assert (measured.log_odds - single.log_odds).abs().mean() < 0.05 * single.log_odds.abs().mean()

    def test_an_overflow_is_an_error_that_names_the_site(self, stories, half):
        frame = stories.frame.iloc[::9]
        huge = torch.finfo(half.model.dtype).max
        with activations.edit(half.model, [Edit("mlp.hook_post", 1, lambda h: h * huge * 2)]):
            with pytest.raises(InputError, match=r"at mlp\.hook_post"):
                behavior.states(half, frame, ["resid_pre", "mlp.hook_post"])
            with pytest.raises(InputError, match="at the logits"):
                behavior.measure(half, behavior.prepare(half, frame))
