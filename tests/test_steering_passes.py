"""Trials side by side are each as if alone, and a pass from a layer on is as if from the first."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import activations, behavior, steering
from memgen.activations import SITES
from memgen.config import AnalysisConfig
from memgen.steering import passes

EDITABLE = [site for site in SITES if site != "resid_mid"]


@pytest.fixture
def shifts():
    """Seven shifts of width 32: of the first layer, of the last, of both, and of none."""
    drawn = torch.randn(7, 2, 32, generator=torch.Generator().manual_seed(3))
    drawn[1, 0], drawn[2, 1], drawn[3], drawn[4, :, 5:] = 0, 0, 0, 0
    return drawn


def prepare(setting, frame=None, **options):
    return behavior.prepare(setting.model, setting.frame if frame is None else frame, setting.tokenizer, **options)


def ragged(setting):
    """Conflict inputs of three lengths, so that batches are padded."""
    frame = setting.frame[setting.frame.kind == "conflict"].iloc[:9].copy()
    frame["input_ids"] = [ids[np.r_[0, 1 + i % 3 : len(ids)]] for i, ids in enumerate(frame.input_ids)]
    return frame


class TestSideBySide:
    @pytest.mark.parametrize("site", EDITABLE)
    @torch.no_grad()
    def test_each_trial_is_as_if_alone(self, setting, site):
        """Padded or after a kept prefix, and at several of the last tokens."""
        generator = torch.Generator().manual_seed(0)
        several = torch.randn(5, 2, activations.width(setting.model, site), generator=generator)
        ways = [
            (ragged(setting), {}, 2),
            (setting.frame.iloc[::5], {"keep": 3}, 2),
            (setting.frame[::5], {"keep": 1}, 1),
        ]
        for frame, options, n_tokens in ways:
            for inputs in steering.keep(setting.model, prepare(setting, frame, **options)):
                together = steering.run_side_by_side(setting.model, inputs, site, several, n_tokens)
                real = inputs.batch.attention_mask[:, -inputs.batch.input_ids.shape[1] :].bool()
                for own, shift in zip(together, several, strict=True):
                    with steering.adding(setting.model, site, shift, n_tokens)(inputs.batch):
                        alone = behavior.run(setting.model, inputs.batch)
                    torch.testing.assert_close(own[real], alone[real], rtol=0, atol=1e-3)

    @torch.no_grad()
    def test_double_precision_leaves_no_doubt(self, sums, shifts):
        model = type(sums.model)(sums.model.config).double().eval()
        frame = sums.frame[sums.frame.kind == "conflict"]
        for inputs in steering.keep(model, behavior.prepare(model, frame, sums.tokenizer, keep=2)):
            together = steering.run_side_by_side(model, inputs, "resid_post", shifts.double(), 2)
            for own, shift in zip(together, shifts.double(), strict=True):
                with steering.adding(model, "resid_post", shift, 2)(inputs.batch):
                    alone = behavior.run(model, inputs.batch)
                torch.testing.assert_close(own, alone, rtol=0, atol=1e-12)
            later = shifts.double() * torch.tensor([[0.0], [1.0]])
            whole = steering.run_side_by_side(model, inputs, "attn_out", later, 1)
            torch.testing.assert_close(
                steering.run_side_by_side(model, inputs, "attn_out", later, 1, start=1), whole, rtol=0, atol=1e-12
            )

    @torch.no_grad()
    def test_from_the_first_shifted_layer_on(self, setting, shifts):
        """The blocks before it are not run, and nothing else changes."""
        later = shifts * torch.tensor([[0.0], [1.0]])
        for options in ({}, {"keep": 2}):
            for inputs in steering.keep(setting.model, prepare(setting, setting.frame.iloc[::7], **options)):
                whole = steering.run_side_by_side(setting.model, inputs, "mlp_out", later, 2)
                with activations.record(setting.model, ["mlp_out"]) as store:
                    part = steering.run_side_by_side(setting.model, inputs, "mlp_out", later, 2, start=1)
                assert [len(own) for own in store["mlp_out"]] == [0, len(inputs.batch.input_ids)]
                torch.testing.assert_close(part, whole, rtol=0, atol=1e-3)

    @torch.no_grad()
    def test_zero_is_no_intervention_bit_for_bit(self, setting, shifts):
        (inputs, *_) = steering.keep(setting.model, prepare(setting, setting.frame.iloc[::7], keep=2))
        zero = steering.run_side_by_side(setting.model, inputs, "resid_post", shifts * 0, 2)
        also = steering.run_side_by_side(setting.model, inputs, "resid_post", shifts[[3] * 7], 2)
        mixed = steering.run_side_by_side(setting.model, inputs, "resid_post", shifts, 2)
        assert torch.equal(zero, also)
        assert torch.equal(mixed[3], zero[3])
        assert not torch.allclose(mixed[0], zero[0], atol=0.1)

    def test_a_change_before_the_start_and_a_wrong_shape_are_refused(self, sums, shifts):
        (inputs, *_) = steering.keep(sums.model, prepare(sums, keep=1))
        with pytest.raises(ValueError, match="with zeros before layer 1"):
            steering.run_side_by_side(sums.model, inputs, "resid_post", shifts, 1, start=1)
        with pytest.raises(ValueError, match=r"\[trial, 2, 32\].*\[32\]|\[trial, 2, 32\].*\[2, 32\]"):
            steering.run_side_by_side(sums.model, inputs, "resid_post", shifts[0], 1)

    def test_an_error_leaves_no_block_that_is_skipped(self, sums, shifts):
        (inputs, *_) = steering.keep(sums.model, prepare(sums, keep=1))
        later = shifts * torch.tensor([[0.0], [1.0]])
        with pytest.raises(ValueError, match="only the last 1"):
            steering.run_side_by_side(sums.model, inputs, "resid_post", later, 2, start=1)
        with pytest.raises(RuntimeError), passes._starting_at(sums.model, 1, inputs.kept[1]):
            raise RuntimeError
        assert all("forward" not in vars(block) for block in activations.blocks(sums.model))


class TestChunks:
    def test_every_shift_once_with_its_own_first_layer(self, shifts):
        many = [*shifts, *shifts, *shifts]
        found = list(passes.chunks(many))
        assert sorted(i for which, _ in found for i in which) == list(range(21))
        assert all(len(which) <= passes.TOGETHER for which, _ in found)
        for which, start in found:
            assert {passes.first_layer(many[i]) for i in which} == {start}
        assert [passes.first_layer(shift) for shift in shifts] == [0, 1, 0, 1, 0, 0, 0]


class TestTrials:
    def test_many_at_once_are_what_each_is_alone(self, setting, shifts):
        """Inputs with one answer and with two, of one token and of several."""
        frame = setting.frame.iloc[::4]
        for options, n_tokens in (({"batch_size": 5}, 2), ({"keep": 1}, 1)):
            prepared = prepare(setting, frame, **options)
            trials = steering.Trials(setting.model, prepared, behavior.measure(setting.model, prepared), n_tokens, 1)
            many = trials.run_many("resid_post", list(shifts))
            for shift, own in zip(shifts, many, strict=True):
                context = steering.adding(setting.model, "resid_post", shift, n_tokens)
                alone = behavior.measure(setting.model, prepared, context)[["behavior", "log_odds"]]
                pd.testing.assert_frame_equal(own, alone, check_dtype=False, rtol=0, atol=1e-3)
            pd.testing.assert_frame_equal(many[3], trials.before[list(many[3])], check_dtype=False, rtol=0, atol=1e-3)
            pd.testing.assert_frame_equal(trials.run("resid_post", shifts[0]), many[0], rtol=0, atol=1e-3)

    def test_inputs_of_the_opposite_behaviour_evenly_by_group(self, planted, rng):
        frame = planted.frame.assign(group=np.where(planted.frame.index < 90, "large", planted.frame.group))
        before = behavior.measure(planted.model, prepare(planted)).behavior
        settings = AnalysisConfig(sweep_rows=20, sweep_draws=3, n_tokens=1)
        for target in steering.TARGETS:
            trials = steering.opposite_trials(planted.model, frame, before, target, planted.tokenizer, settings, rng)
            assert (trials.before.behavior == -target).all()
            assert len(trials.before) == 20
            assert trials.n_controls == 3
            groups = frame.group[trials.before.index].value_counts()
            available = frame.group[before == -target].value_counts()
            assert (groups[groups < groups.max() - 1] == available[groups.index[groups < groups.max() - 1]]).all()
            assert set(groups.index) == set(available.index)

    def test_by_group_takes_all_where_there_are_few(self, rng):
        frame = pd.DataFrame({"group": list("aab")}, index=[4, 2, 9])
        assert steering.by_group(frame, 10, rng).index.to_list() == [2, 4, 9]
        assert set(steering.by_group(frame, 2, rng).group) == {"a", "b"}
