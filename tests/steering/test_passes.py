"""Trials side by side are each as if alone, and a pass from a layer on is as if from the first."""

import dataclasses

import pytest
import torch

from memgen import activations, behavior
from memgen.activations import READ_ONLY, SITES
from memgen.config import InputError
from memgen.steering import passes
from memgen.steering.passes import run_side_by_side
from memgen.subject import Subject
from tests.conftest import TINY, tiny_model

from .conftest import adding, ragged, with_n_tokens

EDITABLE = [site for site in SITES if site not in READ_ONLY]
LATER = torch.tensor([[0.0], [1.0]])  # leaves the second layer of a shift


def cached(subject, frame, prefix=True):
    return [behavior.cache_residuals(subject, batch) for batch in behavior.batches(subject, frame, prefix)]


@pytest.mark.parametrize("site", EDITABLE)
@torch.no_grad()
def test_each_trial_is_as_if_alone(setting, site):
    """Padded or after a cached prefix, at several of the last tokens, and with answers that branch."""
    several = torch.randn(5, *setting.subject.shape(site), generator=torch.Generator().manual_seed(0))
    ways = [(ragged(setting), False, 2), (setting.frame.iloc[::5], True, 2), (setting.frame.iloc[::5], True, 1)]
    conflicts = ragged(setting).query("kind == 'conflict'")
    longer = "red green|crow otter red" if setting.query_length == 3 else "12|345"
    ways.append((conflicts.assign(answer_memorization=longer), True, 1))
    for frame, prefix, n_tokens in ways:
        subject = with_n_tokens(setting, n_tokens)
        for inputs in cached(subject, frame, prefix):
            together = run_side_by_side(subject, inputs, site, several)
            real = inputs.attention_mask[:, -inputs.input_ids.shape[1] :].bool()
            for of_trial, shift in zip(together, several, strict=True):
                with adding(subject, site, shift)(inputs):
                    alone = behavior.run(subject, inputs)
                torch.testing.assert_close(of_trial[real], alone[real], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_each_trial_is_as_if_alone_in_every_architecture(planted, name):
    """After a cached prefix, too, which changes nothing; a window of attention must hold all tokens."""
    vocab_size, frame = planted.subject.model.config.vocab_size, planted.frame.iloc[::9]
    subject = Subject(tiny_model(name, vocab_size, window=8), planted.subject.tokenizer, n_tokens=2)
    several = torch.randn(5, *subject.shape("attn_out"), generator=torch.Generator().manual_seed(0))
    for whole, inputs in zip(behavior.prepare(subject, frame), cached(subject, frame), strict=True):
        together = run_side_by_side(subject, inputs, "attn_out", several)
        for of_trial, shift in zip(together, several, strict=True):
            for batch in (whole, inputs):
                with adding(subject, "attn_out", shift)(batch):
                    alone = behavior.run(subject, batch)[:, -2:]
                torch.testing.assert_close(of_trial, alone, rtol=0, atol=1e-4)
    if "sliding_window" in TINY[name]:
        narrow = dataclasses.replace(subject, model=tiny_model(name, vocab_size, window=7))
        with pytest.raises(InputError, match=r"8 tokens.* 7"):
            behavior.prepare(narrow, frame, prefix=True)


@torch.no_grad()
def test_double_precision_leaves_no_doubt(sums, shifts):
    model = type(sums.subject.model)(sums.subject.model.config).double().eval()
    subject, double = dataclasses.replace(sums.subject, model=model, n_tokens=2), shifts.double()
    for inputs in cached(subject, sums.frame[sums.frame.kind == "conflict"]):
        together = run_side_by_side(subject, inputs, "resid_post", double)
        for of_trial, shift in zip(together, double, strict=True):
            with adding(subject, "resid_post", shift)(inputs):
                alone = behavior.run(subject, inputs)
            torch.testing.assert_close(of_trial, alone, rtol=0, atol=1e-12)
        whole = run_side_by_side(subject, inputs, "attn_out", double * LATER)
        part = run_side_by_side(subject, inputs, "attn_out", double * LATER, start=1)
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("prefix", [False, True])
def test_from_the_first_shifted_layer_on(setting, shifts, prefix):
    """The blocks before it are not run, and nothing else changes."""
    subject = with_n_tokens(setting, 2)
    for inputs in cached(subject, setting.frame.iloc[::7], prefix):
        whole = run_side_by_side(subject, inputs, "mlp_out", shifts * LATER)
        with activations.record(subject.model, ["mlp_out"]) as store:
            part = run_side_by_side(subject, inputs, "mlp_out", shifts * LATER, start=1)
        assert [len(layer) for layer in store["mlp_out"]] == [0, len(inputs.input_ids)]
        torch.testing.assert_close(part, whole, rtol=0, atol=1e-3)


@torch.no_grad()
def test_zero_is_no_intervention_bit_for_bit(setting, shifts):
    subject = with_n_tokens(setting, 2)
    (inputs, *_) = cached(subject, setting.frame.iloc[::7])
    zero = run_side_by_side(subject, inputs, "resid_post", shifts * 0)
    also = run_side_by_side(subject, inputs, "resid_post", shifts[[3] * 7])
    mixed = run_side_by_side(subject, inputs, "resid_post", shifts)
    assert torch.equal(zero, also)
    assert torch.equal(mixed[3], zero[3])
    assert not torch.allclose(mixed[0], zero[0], atol=0.1)


def test_a_change_before_the_start_and_a_wrong_shape_are_refused(sums, shifts):
    (inputs, *_) = cached(sums.subject, sums.frame)
    with pytest.raises(ValueError, match="with zeros before layer 1"):
        run_side_by_side(sums.subject, inputs, "resid_post", shifts, start=1)
    with pytest.raises(ValueError, match=r"\[trial, 2, 32\].*\[2, 32\]"):
        run_side_by_side(sums.subject, inputs, "resid_post", shifts[0])


def test_an_error_leaves_no_block_that_is_skipped(sums, shifts):
    (inputs, *_) = cached(sums.subject, sums.frame)
    with pytest.raises(ValueError, match="only the last 1"):
        run_side_by_side(with_n_tokens(sums, 2), inputs, "resid_post", shifts * LATER, start=1)
    with pytest.raises(RuntimeError), activations.starting_at(sums.subject.model, 1, inputs.entering[1]):
        raise RuntimeError
    assert all("forward" not in vars(block) for block in activations.blocks(sums.subject.model))


def test_every_shift_runs_once_with_its_first_layer(shifts):
    many = [*shifts, *shifts, *shifts]
    found = list(passes.passes(many))
    assert sorted(place for places, _ in found for place in places) == list(range(21))
    assert all(len(places) <= passes.TRIALS_PER_PASS for places, _ in found)
    for places, start in found:
        assert {passes.first_layer(many[place]) for place in places} == {start}
    assert [passes.first_layer(shift) for shift in shifts] == [0, 1, 0, 1, 0, 0, 0]
