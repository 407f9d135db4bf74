"""Gradients against captum and finite differences, and attribution against the effect that it estimates."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation

from memgen import activations, behavior
from memgen.localization.attribution import attributions, log_odds_gradients
from tests.localization.test_patching import patch_layers, plain_log_odds

SITES = ("resid_post", "mlp.hook_post")


def test_gradients_equal_captum(stories):
    """Gradient times activation at the last token, by captum's own hooks and passes."""
    model, frame = stories.subject.model, stories.frame[stories.frame.kind == "conflict"]
    ids = torch.tensor(np.stack(frame.input_ids)).long()
    remembered, inferred = (
        torch.tensor(stories.subject.tokenizer.convert_tokens_to_ids(frame[f"answer_{name}"].to_list()))
        for name in ("memorization", "generalization")
    )
    row = torch.arange(len(ids))

    def log_odds(tokens):
        logits = model(tokens).logits[:, -1]
        return logits[row, remembered] - logits[row, inferred]

    ((index, states),) = log_odds_gradients(stories.subject, frame, SITES)
    assert index.equals(frame.index)
    for layer, block in enumerate(activations.blocks(model)):
        down = block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj
        for site, module, at_input in (("resid_post", block, False), ("mlp.hook_post", down, True)):
            expected = LayerGradientXActivation(log_odds, module).attribute(ids, attribute_to_layer_input=at_input)
            expected = expected[0] if isinstance(expected, tuple) else expected
            activation, gradient = states[site]
            product = activation[:, layer] * gradient[:, layer]
            assert product == pytest.approx(expected[:, -1].detach().numpy(), abs=1e-4)
            assert np.abs(product).max() > 0.1


def test_gradients_of_long_answers_equal_finite_differences(sums, rng):
    """The log-odds of an answer of one token against one of four, moved along random directions."""
    frame = sums.frame[sums.frame.kind == "conflict"].iloc[:6]
    for remembered in (frame.answer_memorization, "12", ["12", "3"] * 3):  # one pass for both answers, two, or either
        answers = frame.assign(answer_memorization=remembered)
        ((_, states),) = log_odds_gradients(sums.subject, answers, SITES)
        batches = behavior.prepare(sums.subject, answers)
        for site in SITES:
            for layer in (0, 1):
                direction = torch.from_numpy(rng.standard_normal(sums.subject.shape(site)[1])).float()
                direction /= direction.norm()
                up, down = (moved_log_odds(sums.subject, batches, site, layer, s * direction) for s in (0.02, -0.02))
                slope = states[site][1][:, layer] @ direction.numpy()
                assert slope == pytest.approx((up - down) / 0.04, rel=0.05, abs=0.01)


def test_it_is_the_mean_over_pairs_of_difference_times_mean_gradient(setting):
    pairs, conflicts = setting.pairs, setting.frame[setting.frame.kind == "conflict"]
    table = attributions(dataclasses.replace(setting.subject, batch_size=5), setting.frame, pairs, SITES)
    ((index, states),) = log_odds_gradients(dataclasses.replace(setting.subject, batch_size=500), conflicts, SITES)
    plus, minus = index.get_indexer(pairs.memorization), index.get_indexer(pairs.generalization)
    for site in SITES:
        state, gradient = states[site]
        expected = ((state[plus] - state[minus]) * (gradient[plus] + gradient[minus]) / 2).mean(0)
        neurons = table[table.site == site]
        assert neurons.attribution.to_numpy() == pytest.approx(expected.ravel(), abs=1e-4)
        assert np.array_equal(neurons[["layer", "neuron"]], np.argwhere(np.ones(expected.shape)))


def test_it_is_the_exact_effect_where_the_readout_is_linear(stories):
    """Without the final norm the log-odds are linear in the last residual stream."""
    model = copy.deepcopy(stories.subject.model)
    if hasattr(model, "transformer"):
        model.transformer.ln_f = torch.nn.Identity()
    else:
        model.model.norm = torch.nn.Identity()
    subject, frame, pairs = dataclasses.replace(stories.subject, model=model), stories.frame, stories.pairs
    last = attributions(subject, frame, pairs, ["resid_post"]).query("layer == 1").attribution
    patched = patch_layers(subject, frame, pairs, ["resid_post"]).query("layer == 1")
    before = plain_log_odds(subject, frame, pairs, patched)
    effect = (patched.log_odds_after - before) * patched.target.map(behavior.LABELS)
    assert last.sum() == pytest.approx(effect.mean(), abs=1e-4)
    assert abs(last.sum()) > 0.1
    receivers = frame.loc[pairs.generalization]
    plus, minus = (
        behavior.states(subject, rows, ["resid_post"])["resid_post"]
        for rows in (frame.loc[pairs.memorization], receivers)
    )
    batches = behavior.prepare(subject, receivers.reset_index(drop=True))
    before = behavior.measure(subject, batches).log_odds.to_numpy()
    for neuron in (0, 17):
        shift = torch.zeros(len(before), 1, 32)
        shift[:, 0, neuron] = torch.from_numpy(plus[:, 1, neuron] - minus[:, 1, neuron])
        after = moved_log_odds(subject, batches, "resid_post", 1, shift)
        assert last.iloc[neuron] == pytest.approx((after - before).mean(), abs=1e-4)


def moved_log_odds(subject, batches, site, layer, shift):
    """The log-odds when `shift` is added at each prompt's last token."""

    def context(batch):
        position = torch.arange(batch.input_ids.shape[1])
        is_last = (position[None] == batch.prompt_length[:, None] - 1)[..., None]
        return activations.edit(subject.model, [activations.Edit(site, layer, lambda h: h + is_last * shift)])

    return behavior.measure(subject, batches, context).log_odds.to_numpy()
