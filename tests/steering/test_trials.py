"""Trials: many shifts at once are what each is alone, and each is compared with its controls."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, intervals
from memgen.behavior import RIGHT_ANSWER, TARGETS
from memgen.config import AnalysisConfig
from memgen.steering import outcomes
from memgen.steering.trials import Trials, by_group, lost

from .conftest import adding, compare, nothing, planted_shift, same, value, with_n_tokens


class TestRun:
    @pytest.mark.parametrize("n_tokens", [1, 2])
    def test_many_at_once_are_what_each_is_alone(self, setting, shifts, n_tokens):
        """Inputs with one answer and with two, of one token and of several."""
        subject = dataclasses.replace(with_n_tokens(setting, n_tokens), batch_size=5)
        trials = Trials.on(subject, setting.frame.iloc[::4])
        many = trials.run("resid_post", list(shifts))
        for shift, outcome in zip(shifts, many, strict=True):
            context = adding(subject, "resid_post", shift)
            alone = behavior.measure(subject, behavior.batches(subject, trials.frame), context)[
                ["behavior", "log_odds"]
            ]
            pd.testing.assert_frame_equal(outcome, alone, check_dtype=False, rtol=0, atol=1e-3)
        pd.testing.assert_frame_equal(many[3], trials.before[list(many[3])], check_dtype=False, rtol=0, atol=1e-3)
        pd.testing.assert_frame_equal(trials.run("resid_post", shifts[:1])[0], many[0], rtol=0, atol=1e-3)

    def test_in_any_order(self, stories, shifts):
        trials = Trials.on(stories.subject, stories.frame.iloc[::4])
        many, reverse = trials.run("resid_post", list(shifts)), trials.run("resid_post", list(shifts.flip(0)))
        for outcome, again in zip(many, reversed(reverse), strict=True):
            pd.testing.assert_frame_equal(outcome, again, rtol=0, atol=1e-3)


class TestCompare:
    """One dimension is enough where one dimension decides."""

    def test_a_shift_is_compared_with_the_strongest_kind_of_control(self, planted, trials, rng):
        """Of one kind both draws do nothing; of the other, one does the same and one nothing."""
        shift = planted_shift(planted, 4.0)
        draws = iter([shift, shift * 0])
        controls = {"weak": nothing, "strong": lambda _shift, _rng: next(draws)}
        tried = compare(trials, [shift], 1, controls, rng)
        (reached,) = value(tried, "reached")
        assert reached > 0.95
        assert value(tried, "reached", "weak") == [0]
        assert value(tried, "reached", "strong") == value(tried, "best_control") == value(tried, "net") == [reached / 2]

    def test_several_shifts_are_each_compared_with_their_own(self, planted, trials, rng):
        shifts = [planted_shift(planted, size) for size in (4.0, 0.0, -4.0)]
        tried = compare(trials, shifts, 1, {"same": same, "none": nothing}, rng)
        reached = value(tried, "reached")
        assert reached[0] > 0.95
        assert reached == value(tried, "reached", "same")
        assert value(tried, "net") == value(tried, "other") == [0, 0, 0]
        assert reached[1:] == value(tried, "reached", "none")[1:] == [0, 0]
        assert value(tried, "wrong_way") == [0, 0, 1]

    def test_a_shift_is_preferred_by_the_probability_of_the_targets_answer(self, planted, trials, rng):
        """Also where no greedy answer moves yet; the strongest kind of control is taken away."""
        shifts = [planted_shift(planted, size) for size in (1.0, 4.0, 0.0)]
        controls = {"none": nothing, "half": lambda shift, _: shift / 2}
        tried = compare(trials, shifts, 1, controls, rng)
        opposite = trials.before.index[trials.before.behavior == -1]

        def likely(size):
            (after,) = trials.run("resid_post", [planted_shift(planted, size)])
            return (1 / (1 + np.exp(-after.log_odds[opposite]))).mean()

        expected = [likely(1.0) - likely(0.5), likely(4.0) - likely(2.0), 0.0]
        assert value(tried, "preferred") == pytest.approx(expected, abs=1e-5)

    def test_every_value_is_a_plain_rate_and_its_interval_clusters_by_group(self, planted, trials, rng):
        shift = planted_shift(planted, 2.5)
        tried = compare(trials, [shift], -1, {"half": lambda vector, _: -vector / 2}, rng)
        opposite = trials.before.index[trials.before.behavior == 1]
        (after,) = trials.run("resid_post", [-shift / 2])
        expected = intervals.share(after.behavior[opposite] == -1, planted.frame.group[opposite])
        row = tried[(tried.control == "half") & (tried.measure == "reached")].iloc[0]
        assert tuple(row[["value", "ci_low", "ci_high", "n"]]) == expected
        assert tried[tried.measure != "log_odds"][["ci_low", "ci_high"]].notna().all(axis=None)

    def test_without_controls_there_is_no_net_effect(self, planted, trials, rng):
        tried = compare(trials, [planted_shift(planted, 4.0)], 1, {}, rng)
        assert tried.measure.to_list() == [*outcomes.RATES, "log_odds"]

    def test_accuracy_is_lost_on_both_kinds(self, planted, single_answer, trials, rng):
        """A shift away from the behaviour that gives the right answer loses it; one towards it does not."""
        labels = trials.before.behavior
        for target in TARGETS:
            made = Trials.make(planted.subject, single_answer, labels, target, AnalysisConfig(), rng)
            conflicts = single_answer[single_answer.kind == "conflict"]
            assert set(made.before.index) == set(conflicts.index[labels[conflicts.index] == -target])
            shifts = [planted_shift(planted, size * target) for size in (9.0, -9.0)]
            losses = lost(made.single_answer, "resid_post", shifts).set_index("inputs").value
            for kind in ("memorized_only", "inferred_only"):
                assert losses[kind].to_list() == ([0, 1] if RIGHT_ANSWER[kind] == target else [1, 0])
            assert "aligned" not in losses  # there are no such inputs
            few = Trials.make(planted.subject, single_answer, labels, target, AnalysisConfig(sweep_rows=3), rng)
            assert [len(part.frame) for part in few.single_answer.values()] == [3, 3]

    def test_no_input_shows_the_opposite(self, planted, single_answer, rng):
        """There is no rate; what a shift costs elsewhere is known."""
        labels = pd.Series(1, planted.frame.index)
        made = Trials.make(planted.subject, single_answer, labels, 1, AnalysisConfig(), rng)
        shift = planted_shift(planted, 9.0)
        assert compare(made, [shift], 1, {"none": nothing}, rng).empty
        losses = lost(made.single_answer, "resid_post", [shift]).set_index("inputs").value
        assert losses["inferred_only"] == 1


class TestInputs:
    def test_of_the_opposite_behaviour_evenly_by_group(self, planted, trials, rng):
        frame = planted.frame.assign(group=np.where(planted.frame.index < 90, "large", planted.frame.group))
        labels = trials.before.behavior
        for target in TARGETS:
            settings = AnalysisConfig(sweep_rows=20, sweep_draws=3)
            made = Trials.make(planted.subject, frame, labels, target, settings, rng)
            assert (made.before.behavior == -target).all()
            assert (len(made.before), made.n_draws) == (20, 3)
            groups = frame.group[made.before.index].value_counts()
            available = frame.group[labels == -target].value_counts()
            exhausted = groups.index[groups < groups.max() - 1]
            assert (groups[exhausted] == available[exhausted]).all()
            assert set(groups.index) == set(available.index)

    def test_by_group_takes_all_where_there_are_few(self, rng):
        frame = pd.DataFrame({"group": list("aab")}, index=[4, 2, 9])
        assert by_group(frame, 10, rng).index.to_list() == [2, 4, 9]
        assert set(by_group(frame, 2, rng).group) == {"a", "b"}


def test_draws_come_from_the_generator_in_the_order_of_shifts_controls_and_draws(planted, trials):
    """The published draws hang on it."""
    seen = []

    def draw(name):
        def control(shift, rng):
            seen.append((float(shift.norm()), name, rng.integers(1000)))
            return torch.zeros_like(shift)

        return control

    shifts = [planted_shift(planted, size) for size in (1.0, 2.0)]
    controls = {"a": draw("a"), "b": draw("b")}
    (found,) = trials.compare("resid_post", [(shifts, 1, controls, np.random.default_rng(7))])
    rng = np.random.default_rng(7)
    order = itertools.product((1.0, 2.0), "ab", range(2))
    assert seen == [(norm, name, rng.integers(1000)) for norm, name, _ in order]
    places = found.drop_duplicates(["trial", "control", "draw"])[["trial", "control", "draw", "norm"]]
    assert places[places.control.isna()].norm.to_list() == [1.0, 2.0]
    assert (places.norm.dropna() > 0).sum() == 2
