"""What interventions do to behaviours: trials beside their controls, and the numbers against hand-made frames."""

import numpy as np
import pandas as pd
import pytest
import torch

from memgen import behavior, localization, steering
from memgen.config import AnalysisConfig, InputError

SHAPE = (2, 32)


@pytest.fixture
def table(planted, planted_pairs, rng):
    """The planted model's table of neurons."""
    inputs = (planted.model, planted.frame, planted_pairs, planted.tokenizer, ["resid_post", "mlp.hook_post"])
    return localization.neuron_table(localization.accumulate(*inputs), 2, rng, 100)


def prepare(setting, frame=None):
    return behavior.prepare(setting.model, setting.frame if frame is None else frame, setting.tokenizer, keep=1)


class TestTrials:
    """One neuron is enough where one neuron decides, and random ones do nothing."""

    @pytest.fixture
    def trials(self, planted):
        prepared = prepare(planted)
        before = behavior.measure(planted.model, prepared)
        return steering.Trials(planted.model, prepared, before, n_tokens=1, n_controls=2)

    def test_a_shift_is_compared_with_the_mean_of_its_controls(self, planted, trials, rng):
        """Of its two controls, one does the same and one nothing."""
        own = planted_shift(planted, 4.0)
        controls = iter([own, own * 0])
        told = trials.compare("resid_post", own, 1, lambda _shift, _rng: next(controls), rng)
        assert told["to_target"] > 0.95
        assert told["control"] == told["net"] == told["to_target"] / 2
        assert told["norm"] == 4.0

    @pytest.mark.parametrize("site", ["resid_post", "mlp.hook_post"])
    def test_the_studys_sweep_finds_the_neuron(self, trials, table, site, rng):
        tried = steering.sweep_study(trials, table, site, [1, 2], [0.1, 1.0], rng)
        assert tried[["target", "n", "alpha"]].to_numpy().tolist() == [
            [target, n, alpha] for target in (1, -1) for n in (1, 2) for alpha in (0.1, 1.0)
        ]
        for target in steering.TARGETS:
            assert steering.choose(tried, target, max_other=0.05).alpha == 1.0
            own = tried[tried.target == target].set_index(["n", "alpha"])
            assert own.to_target[1, 1.0] > 0.95
            assert own.net[1, 1.0] > 0.5
            assert own.wrong_way[1, 1.0] == 0
            assert own.to_target[1, 0.1] < 0.2

    def test_the_sweep_of_fitted_shifts(self, planted, trials, rng):
        inputs = {target: planted.frame[trials.before.behavior == -target][:24] for target in steering.TARGETS}
        learn = {target: prepare(planted, frame) for target, frame in inputs.items()}
        config = AnalysisConfig(fit_steps=40, fit_learning_rate=0.1, norm_penalty=0.1)
        tried, shifts = steering.sweep_fitted(trials, learn, "resid_post", config, rng)
        names = ["layer 0", "layer 1", "all"]
        assert list(shifts) == [(target, name) for target in (1, -1) for name in names]
        assert len(tried) == 2 * len(names) * len(steering.STRENGTHS)
        for (target, name), own in shifts.items():
            assert torch.nonzero(own.abs().sum(1)).flatten().tolist() == {"layer 0": [0], "layer 1": [1]}.get(
                name, [0, 1]
            )
            rows = tried[(tried.target == target) & (tried.layers == name)]
            assert rows.strength.to_list() == list(steering.STRENGTHS)
            assert rows.norm.to_numpy() == pytest.approx(float(own.norm()) * rows.strength)
            row = rows.iloc[1]
            after = trials.run("resid_post", row.strength * own)
            assert row[["to_target", "to_other", "wrong_way"]].to_dict() == steering.rates(trials.before, after, target)
        for target in steering.TARGETS:
            assert steering.choose(tried, target, max_other=0.05).net > 0.9


def planted_shift(planted, value):
    """A shift of the dimension that decides."""
    vectors = torch.zeros(SHAPE)
    vectors[planted.dimension] = value
    return vectors


class TestOutcomes:
    INDEX = pd.Index([4, 9, 11, 20, 21], name="row")
    BEFORE = pd.DataFrame({"behavior": [-1, -1, -1, 1, 0], "log_odds": [-2.0, -1.0, -3.0, 2.0, 0.0]}, index=INDEX)
    AFTER = pd.DataFrame({"behavior": [1, 0, -1, 1, 1], "log_odds": [1.0, -0.5, -4.0, 9.0, 3.0]}, index=INDEX)

    def test_moved_by_hand(self):
        moved = steering.moved(self.BEFORE, self.AFTER, 1)
        assert moved.index.to_list() == [4, 9, 11]  # those that showed generalization
        assert moved.to_dict("list") == {
            "to_target": [1, 0, 0],
            "to_other": [0, 1, 0],
            "wrong_way": [0, 0, 1],
        }
        other_way = steering.moved(self.BEFORE, self.AFTER, -1)
        assert other_way.index.to_list() == [20]
        assert other_way.iloc[0].to_list() == [0, 0, 1]  # the log-odds rose, away from generalization

    def test_the_order_of_rows_does_not_matter(self):
        shuffled = self.AFTER.iloc[[3, 0, 4, 2, 1]]
        pd.testing.assert_frame_equal(
            steering.moved(self.BEFORE, shuffled, 1), steering.moved(self.BEFORE, self.AFTER, 1)
        )
        pd.testing.assert_frame_equal(
            steering.outcomes(self.BEFORE, shuffled, 1, "a"),
            steering.outcomes(self.BEFORE, self.AFTER, 1, "a"),
        )

    def test_rates_by_hand(self):
        third = pytest.approx(1 / 3)
        assert steering.rates(self.BEFORE, self.AFTER, 1) == {
            "to_target": third,
            "to_other": third,
            "wrong_way": third,
        }

    def test_outcomes_keep_every_input(self):
        rows = steering.outcomes(self.BEFORE, self.AFTER, 1, "study")
        assert rows.to_dict("list") == {
            "input": [4, 9, 11, 20, 21],
            "method": ["study"] * 5,
            "target": [1] * 5,
            "behavior_before": [-1, -1, -1, 1, 0],
            "behavior_after": [1, 0, -1, 1, 1],
            "log_odds_before": [-2.0, -1.0, -3.0, 2.0, 0.0],
            "log_odds_after": [1.0, -0.5, -4.0, 9.0, 3.0],
        }

    def test_summaries_by_hand(self, rng):
        rows = steering.outcomes(self.BEFORE, self.AFTER, 1, "study").assign(group=list("abbcc"))
        summary = steering.summarize(rows, rng, 200)
        assert summary.measure.to_list() == ["to_target", "to_other", "wrong_way"]
        assert summary.value.to_list() == pytest.approx([1 / 3] * 3)
        assert summary.n.to_list() == [3] * 3
        assert (summary.low[0], summary.high[0]) == (0, 1)  # group a reaches it, group b never
        shares = steering.shares(rows).set_index("behavior")
        assert shares.share.to_dict() == pytest.approx(
            dict.fromkeys(["memorization", "generalization", "other"], 1 / 3)
        )
        assert set(shares.n) == {3}

    def test_a_target_whose_opposite_nobody_showed(self, rng):
        rows = steering.outcomes(self.BEFORE.assign(behavior=1), self.AFTER, 1, "study").assign(group="a")
        assert steering.summarize(rows, rng, 10).empty
        assert np.isnan(steering.rates(self.BEFORE.assign(behavior=1), self.AFTER, 1)["to_target"])

    def test_net_effect_is_the_method_minus_the_mean_of_its_controls(self, rng):
        control = self.AFTER.assign(behavior=[0, 1, -1, 1, 1])
        parts = [
            steering.outcomes(self.BEFORE, self.AFTER, 1, "study").assign(draw=0),
            steering.outcomes(self.BEFORE, control, 1, "study: random control").assign(draw=0),
            steering.outcomes(self.BEFORE, self.BEFORE, 1, "study: random control").assign(draw=1),
            steering.outcomes(self.BEFORE, self.BEFORE, 1, "another: random control").assign(draw=0),
        ]
        rows = pd.concat(parts, ignore_index=True).assign(group=lambda frame: frame.input % 2)
        net = steering.net_effect(rows.sample(frac=1, random_state=rng), ["study"], rng, 100)
        assert net[["method", "target", "n"]].to_numpy().tolist() == [["study", 1, 3]]
        assert net.value[0] == pytest.approx((1 + 0 + 0) / 3 - (0 + 0.5 + 0) / 3)

    def test_mean_log_odds_by_hand(self, rng):
        groups = pd.Series(list("abbcc"), index=self.INDEX)
        result = steering.mean_log_odds(self.BEFORE, self.AFTER, 1, groups, rng, 200)
        assert result == {"log_odds": pytest.approx(-3.5 / 3), "low": -2.25, "high": 1.0, "n": 3}


class TestChoose:
    TRIED = pd.DataFrame(
        {
            "target": [1, 1, 1, 1, 1, -1],
            "n": [0, 1, 2, 3, 4, 5],
            "to_target": [0.9, 0.2, 0.6, 0.6, 0.9, 1.0],
            "net": [0.1, 0.2, 0.6, 0.6, 0.9, 0.5],  # the first reaches the target often, and so do its controls
            "to_other": [0.0, 0.0, 0.02, 0.01, 0.5, 0.0],
        }
    )

    def test_the_first_of_the_best_within_the_limit(self):
        assert steering.choose(self.TRIED, 1, 0.03).n == 2
        assert steering.choose(self.TRIED, 1, 0.02).n == 2
        assert steering.choose(self.TRIED, 1, 0.015).n == 3
        assert steering.choose(self.TRIED, 1, 0.5).n == 4
        assert steering.choose(self.TRIED, -1, 0.03).n == 5

    def test_where_none_keeps_the_limit_the_least_harmful_is_taken(self):
        assert steering.choose(self.TRIED.iloc[2:], 1, 0.0).n == 3

    def test_nothing_was_there_to_be_moved(self):
        nothing = self.TRIED.assign(to_target=np.nan, to_other=np.nan, net=np.nan)
        sentence = "No input showed generalization, so nothing can be chosen that leads to memorization"
        with pytest.raises(InputError, match=sentence):
            steering.choose(nothing, 1, 0.03)
