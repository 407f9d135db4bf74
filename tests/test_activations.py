"""Sites are where they say, edits do what they say and nothing else, and no hook outlives its context."""

import copy

import pytest
import torch

from memgen import activations
from memgen.activations import READ_ONLY, SITES, Edit
from tests.conftest import hooks

EDITABLE = [site for site in SITES if site not in READ_ONLY]


@pytest.fixture
def ids(stories):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, stories.subject.model.config.vocab_size, (3, 7), generator=generator)


@pytest.fixture
def model(stories):
    return stories.subject.model


@torch.no_grad()
def read(model, ids, sites=SITES):
    with activations.record(model, sites) as store:
        logits = model(ids).logits
    return dict(store), logits


@torch.no_grad()
def logits_under(model, ids, *edits):
    with activations.edit(model, edits):
        return model(ids).logits


def add(site, layer, vector):
    return Edit(site, layer, lambda h: h + vector)


def one_neuron(model, site, value, neuron=5):
    """A vector along one neuron: a constant on all of them would be taken away by the next layer norm."""
    vector = torch.zeros(activations.width(model, site))
    vector[neuron] = value
    return vector


def test_residual_stream_equals_that_of_hugging_face(model, ids):
    store, logits = read(model, ids)
    # A copy, since Hugging Face leaves hooks of its own on a model that was asked for hidden states.
    with torch.no_grad():
        theirs = copy.deepcopy(model)(ids, output_hidden_states=True)
    body = model.transformer if hasattr(model, "transformer") else model.model
    final_norm = body.ln_f if hasattr(body, "ln_f") else body.norm
    assert torch.equal(logits, theirs.logits)
    assert len(store["resid_pre"]) == len(store["resid_post"]) == len(theirs.hidden_states) - 1 == 2
    for layer in range(2):
        assert torch.equal(store["resid_pre"][layer], theirs.hidden_states[layer])
    assert torch.equal(store["resid_post"][0], theirs.hidden_states[1])
    assert torch.equal(final_norm(store["resid_post"][1]), theirs.hidden_states[2])
    assert not torch.allclose(store["resid_post"][1], theirs.hidden_states[2])


def test_sites_add_up(model, ids):
    store, _ = read(model, ids)
    for layer in range(2):
        assert torch.equal(store["resid_mid"][layer], store["resid_pre"][layer] + store["attn_out"][layer])
        assert torch.equal(store["resid_post"][layer], store["resid_mid"][layer] + store["mlp_out"][layer])
        assert store["attn_out"][layer].abs().min() > 0


def test_the_hidden_layer_of_the_mlp_is_computed_by_hand(model, ids):
    store, _ = read(model, ids)
    for layer, block in enumerate(activations.blocks(model)):
        mlp, mid, hidden = block.mlp, store["resid_mid"][layer], store["mlp.hook_post"][layer]
        with torch.no_grad():
            if hasattr(mlp, "c_fc"):
                by_hand, out = mlp.act(mlp.c_fc(block.ln_2(mid))), mlp.c_proj(hidden)
            else:
                normed = block.post_attention_layernorm(mid)
                by_hand, out = mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed), mlp.down_proj(hidden)
        assert torch.equal(hidden, by_hand)
        assert torch.equal(store["mlp_out"][layer], out)


def test_the_normed_residual_stream_is_what_the_next_norm_makes_of_it(model, ids):
    store, _ = read(model, ids)
    if hasattr(model, "transformer"):
        norms = [model.transformer.h[1].ln_1, model.transformer.ln_f]
    else:
        norms = [model.model.layers[1].input_layernorm, model.model.norm]
    with torch.no_grad():
        for norm, post, normed in zip(norms, store["resid_post"], store["resid_post_normed"], strict=True):
            assert torch.equal(normed, norm(post))
        assert torch.equal(model.lm_head(store["resid_post_normed"][1]), model(ids).logits)


def test_the_heads_outputs_are_projected_to_that_of_attention(model, ids):
    store, _ = read(model, ids)
    for layer, block in enumerate(activations.blocks(model)):
        projection = block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj
        with torch.no_grad():
            assert torch.equal(projection(store["attn.hook_z"][layer]), store["attn_out"][layer])


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
    assert activations.width(model, "mlp.hook_post") == 128


def test_reading_changes_nothing_in_any_order(model, ids):
    with torch.no_grad():
        plain = model(ids).logits
    store, logits = read(model, ids)
    backwards, again = read(model, ids, SITES[::-1])
    assert torch.equal(plain, logits)
    assert torch.equal(plain, again)
    for site in SITES:
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


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("site", EDITABLE)
class TestEdit:
    def test_strength_zero_is_bit_equal(self, model, ids, site, layer):
        with torch.no_grad():
            plain = model(ids).logits
        vector = torch.randn(activations.width(model, site), generator=torch.Generator().manual_seed(2))
        assert torch.equal(logits_under(model, ids, add(site, layer, 0.0 * vector)), plain)
        assert not torch.allclose(logits_under(model, ids, add(site, layer, vector)), plain)

    def test_plus_and_minus_restore(self, model, ids, site, layer):
        with torch.no_grad():
            plain = model(ids).logits
        vector = torch.randn(activations.width(model, site), generator=torch.Generator().manual_seed(2))
        both = logits_under(model, ids, add(site, layer, vector), add(site, layer, -vector))
        assert torch.allclose(both, plain, atol=1e-4)
        with torch.no_grad():
            assert torch.equal(model(ids).logits, plain)

    def test_a_sentinel_changes_the_logits_from_its_position_on(self, model, ids, site, layer):
        where = torch.zeros(ids.shape[1], 1)
        where[4] = 1e3
        with torch.no_grad():
            plain = model(ids).logits
        changed = logits_under(model, ids, add(site, layer, where * one_neuron(model, site, 1.0)))
        assert torch.equal(changed[:, :4], plain[:, :4])
        assert (changed[:, 4] - plain[:, 4]).abs().amax(-1).min() > 0.1

    def test_the_site_is_original_plus_vector_and_what_comes_before_is_untouched(self, model, ids, site, layer):
        vector = torch.randn(activations.width(model, site), generator=torch.Generator().manual_seed(2))
        plain, _ = read(model, ids)
        with activations.edit(model, [add(site, layer, vector)]):
            edited, _ = read(model, ids)
        assert torch.equal(edited[site][layer], plain[site][layer] + vector)
        for earlier in range(layer):
            same = ("resid_post", "resid_post_normed") if site == "resid_pre" else ()  # the stream between two blocks
            untouched = [other for other in SITES if other not in same]
            assert all(torch.equal(edited[other][earlier], plain[other][earlier]) for other in untouched)
        for other in SITES[: SITES.index(site)]:
            assert torch.equal(edited[other][layer], plain[other][layer])
        for other in SITES[SITES.index(site) + 1 :]:
            # Between attention and the MLP's output, each site depends on the one before it.
            assert not torch.equal(edited[other][layer], plain[other][layer])

    def test_the_activations_themselves_are_not_changed(self, model, ids, site, layer):
        plain, _ = read(model, ids, [site])
        with (
            torch.no_grad(),
            activations.record(model, [site]) as store,
            activations.edit(model, [add(site, layer, 9.0)]),
        ):
            model(ids)
        assert torch.equal(store[site][layer], plain[site][layer])  # the record saw it before the edit


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
    """Every test checks this at its end, too (tests/conftest.py)."""

    def test_after_a_normal_exit(self, model, ids):
        with activations.record(model, SITES), activations.edit(model, [add("resid_post", 0, 1.0)]):
            assert hooks(model) == 2 * len(SITES) + 1
            model(ids)
        assert hooks(model) == 0

    def test_after_an_exception_in_the_context(self, model):
        with (
            pytest.raises(KeyError, match="mine"),
            activations.record(model, SITES),
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


def test_unknown_architecture():
    with pytest.raises(ValueError, match="No sites are known for a Linear"):
        activations.blocks(torch.nn.Linear(2, 2))


def test_at_last_takes_each_prompts_last_token():
    layers = [torch.arange(24.0).reshape(2, 4, 3) + 100 * layer for layer in range(2)]
    last = activations.at_last(layers, torch.tensor([2, 4]))
    assert last.tolist() == [[[3, 4, 5], [103, 104, 105]], [[21, 22, 23], [121, 122, 123]]]
