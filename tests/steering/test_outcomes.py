"""What becomes of test inputs, against hand-made frames."""

import numpy as np
import pandas as pd
import pytest

from memgen import intervals
from memgen.behavior import NAMES, TARGETS
from memgen.figures.theme import METHOD_NAMES
from memgen.steering import outcomes
from memgen.steering.outcomes import GENERATORS

from .conftest import intervention, planted_shift

INPUTS = [4, 9, 11, 20, 21]
BEFORE, ODDS_BEFORE = [-1, -1, -1, 1, 0], [-2.0, -1.0, -3.0, 2.0, 0.0]
AFTER, ODDS_AFTER = [1, 0, -1, 1, 1], [1.0, -0.5, -4.0, 9.0, 3.0]


def rows(control=None, draw=0, after=AFTER, method="study", target="memorization"):
    frame = pd.DataFrame({"input": INPUTS, "behavior_before": BEFORE, "behavior_after": after})
    frame = frame.assign(log_odds_before=ODDS_BEFORE, log_odds_after=ODDS_AFTER, population="conflicts")
    frame = frame.assign(group=list("abbcc"), answer_memorization="red", answer_generalization="teal")
    return frame.assign(method=method, control=control, draw=draw, target=target)


class TestOpposite:
    def test_by_hand(self):
        found = outcomes.opposite(rows())
        assert found.input.to_list() == INPUTS[:3]
        assert found[outcomes.RATES].to_dict("list") == {
            "reached": [1, 0, 0],
            "stayed": [0, 0, 1],
            "other": [0, 1, 0],
            "wrong_way": [0, 0, 1],
        }
        assert found.preference.to_list() == pytest.approx(1 / (1 + np.exp([-1.0, 0.5, 4.0])))
        back = outcomes.opposite(rows(target="generalization").assign(behavior_before=1))
        assert back.wrong_way.to_list() == [1, 1, 0, 1, 1]  # the log-odds of all but one rose
        assert back.preference[:3].to_list() == pytest.approx(1 / (1 + np.exp([1.0, -0.5, -4.0])))

    def test_rounding_moves_nothing_the_wrong_way(self):
        for change, expected in ((1e-5, 0), (0.1, 1)):
            result = rows().assign(log_odds_after=np.array(ODDS_BEFORE) - change)
            assert (outcomes.opposite(result).wrong_way == expected).all()


class TestRates:
    def test_by_hand(self):
        found = outcomes.summary(rows()).set_index("measure")
        assert found.value[outcomes.RATES].to_list() == pytest.approx([1 / 3] * 4)
        assert found.value["log_odds"] == pytest.approx((1.0 - 0.5 - 4.0) / 3)
        assert set(found.n) == {3}  # those that showed generalization
        expected = intervals.share([1, 0, 0], list("abb"))
        assert tuple(found.loc["reached", ["value", "ci_low", "ci_high", "n"]]) == expected

    def test_the_other_way(self):
        found = outcomes.summary(rows(target="generalization")).set_index("measure").value
        assert found[outcomes.RATES].to_dict() == {
            "reached": 0,
            "stayed": 1,
            "other": 0,
            "wrong_way": 1,
        }  # one input, its log-odds rose

    def test_draws_of_a_control_are_averaged_by_input(self):
        nothing = [-1, -1, -1, 1, 0]
        draws = [rows("random_direction", draw, after) for draw, after in enumerate((AFTER, nothing))]
        found = (
            outcomes.summary(pd.concat([rows(), *draws])).query("control == 'random_direction'").set_index("measure")
        )
        assert found.value["reached"] == pytest.approx(1 / 6)
        assert set(found.n) == {3}

    def test_a_target_whose_opposite_nobody_showed(self):
        result = rows().assign(behavior_before=1)
        assert outcomes.summary(result).empty
        assert outcomes.by_answer(result).empty


class TestNet:
    @pytest.fixture
    def result(self, rng):
        stronger = [0, 1, -1, 1, 1]
        parts = [rows(), rows(method="bare"), rows(method="fitted_mlp"), rows("random_direction", method="fitted_mlp")]
        parts += [rows("random_neurons", draw, BEFORE) for draw in (0, 1)]
        parts += [rows("least_correlated", 0, stronger), rows("least_correlated", 1, BEFORE)]
        return pd.concat(parts).sample(frac=1, random_state=rng)

    def test_the_best_control_is_the_strongest_kind(self, result):
        found = outcomes.summary(result).query("measure == 'reached'")
        assert found.groupby("method").size().to_dict() == {"study": 4, "fitted_mlp": 3, "bare": 1}
        by_control = found[found.method == "study"].set_index("control").value
        assert by_control["best"] == by_control["least_correlated"] == pytest.approx(1 / 6)

    def test_the_net_effect_is_paired_by_input(self, result):
        net = outcomes.summary(result).query("measure == 'net'").set_index("method")
        assert set(net.index) == {"study", "fitted_mlp"}
        assert net.value["study"] == pytest.approx((1 + 0 + 0) / 3 - (0 + 0.5 + 0) / 3)
        expected = intervals.difference([1, 0, 0], [0, 0.5, 0], list("abb"))
        assert tuple(net.loc["study", ["value", "ci_low", "ci_high", "n"]]) == pytest.approx(expected)
        assert net.value["fitted_mlp"] == 0
        assert net.ci_low["fitted_mlp"] < 0 < net.ci_high["fitted_mlp"]

    def test_the_random_baseline_is_no_control(self, result):
        """It reaches every input, and neither the best control nor the net effect knows it."""
        with_baseline = outcomes.summary(pd.concat([result, rows("uniform", after=[1] * 5)]))
        is_baseline = with_baseline.control == "uniform"
        assert with_baseline[is_baseline & (with_baseline.measure == "reached")].value.to_list() == [1.0]
        order = ["method", "control", "measure"]
        pd.testing.assert_frame_equal(
            with_baseline[~is_baseline].sort_values(order, ignore_index=True),
            outcomes.summary(result).sort_values(order, ignore_index=True),
        )
        only = outcomes.summary(pd.concat([rows(), rows("uniform", after=[1] * 5)]))
        assert set(only.measure) == {*outcomes.RATES, "log_odds"}


def test_flip_pairs_are_a_population_of_their_own():
    about = {"in_flip_pair": [True, True, False, True, False], "in_sample": [True, False, True, True, True]}
    result = rows().drop(columns="population").assign(**about)
    found = outcomes.summary(outcomes.by_population(result, "seen_")).query("measure == 'reached'")
    found = found.set_index("population")
    assert found.n.to_dict() == {"seen_conflicts": 2, "seen_flip_pairs": 2}
    assert found.value["seen_flip_pairs"] == 0.5


def test_a_sample_by_group_and_every_flip_pair(planted, trials, rng):
    frame, labels = planted.frame, trials.before.behavior
    labels = labels.where(frame.index % 60 < 4, 1)  # of all pairs only four flip
    chosen = outcomes.to_test(frame, labels, 30, rng)
    sample = chosen[chosen.in_sample]
    assert labels[sample.index].value_counts().to_dict() == {1: 15, -1: (labels == -1).sum()}  # those are fewer than 15
    assert sample[labels[sample.index] == 1].group.nunique() == 15
    assert list(chosen.index[chosen.in_flip_pair]) == [0, 1, 2, 3, 60, 61, 62, 63]
    assert (chosen.in_sample | chosen.in_flip_pair).all()
    assert len(outcomes.to_test(frame, labels, 1000, rng)) == len(frame)


class TestByAnswer:
    """Rates of answers, of 60 inputs in 20 groups."""

    @pytest.fixture
    def result(self):
        frame = pd.DataFrame({"input": np.arange(60), "method": "study", "control": None, "target": "memorization"})
        frame["behavior_before"], frame["log_odds_before"], frame["log_odds_after"] = -1, -1.0, 1.0
        frame["behavior_after"] = np.where(frame.input < 45, 1, -1)
        frame["answer_memorization"] = np.where(frame.input < 4, "few", np.where(frame.input % 2, "odd", "even"))
        frame["answer_generalization"] = np.where(frame.input >= 40, "late", "early")
        frame["group"] = frame.input // 3
        stays = frame.assign(behavior_before=1, answer_memorization="was there before")
        return pd.concat([frame, stays], ignore_index=True)

    def test_by_answer(self, result):
        found = outcomes.by_answer(result).set_index(["behavior", "answer"])
        assert found.n.to_dict() == {
            ("memorization", "even"): 28,
            ("memorization", "odd"): 28,
            ("generalization", "early"): 40,
            ("generalization", "late"): 20,
        }
        assert found.value["generalization", "late"] == 0.25
        assert found.value["memorization", "even"] == pytest.approx(21 / 28)

    def test_alternatives_are_no_single_answer(self, result):
        found = outcomes.by_answer(result.assign(answer_memorization="red|blue"))
        assert set(found.behavior) == {"generalization"}


class TestOnTest:
    def test_every_method_control_draw_and_input(self, planted, trials, neurons):
        shift = planted_shift(planted, 4.0)
        made = {name: intervention("resid_post", shift) for name in ("study", "study_shuffled")}
        found = outcomes.on_test(trials, made, ["study"], neurons, lambda name: np.random.default_rng(len(name)))
        kinds = ["random_neurons", "random_direction", "least_correlated", "uniform"]
        norms = found[found.control != "uniform"].norm
        assert norms.to_numpy() == pytest.approx(4.0)
        size = found.assign(control=found.control.fillna("")).groupby(["method", "control", "draw", "target"]).size()
        assert (size == len(planted.frame)).all()
        counts = {("study", kind, draw, NAMES[t]) for kind in kinds for draw in (0, 1) for t in TARGETS}
        counts |= {(method, "", 0, NAMES[target]) for method in made for target in TARGETS}
        assert set(size.index) == counts
        rates = outcomes.summary(found, ["method", "target"])
        reached = rates[rates.measure == "reached"].set_index("method")
        own = reached[reached.control.isna()].value
        assert own["study"].to_list() == own["study_shuffled"].to_list()
        assert own.min() > 0.95
        assert reached[reached.control.isin(["random_neurons", "least_correlated"])].value.max() < 0.6

    def test_generators_have_the_published_names(self, planted, trials, neurons):
        """Each method's controls are drawn again as they were drawn before."""
        assert set(GENERATORS) == set(METHOD_NAMES)
        asked = []

        def make_rng(name):
            asked.append(name)
            return np.random.default_rng(0)

        made = {"fitted_mlp_tenth": intervention("resid_post", planted_shift(planted, 1.0))}
        outcomes.on_test(trials, made, ["fitted_mlp_tenth"], neurons, make_rng)
        assert asked == ["controls of gradient-guided MLP 10% 1", "controls of gradient-guided MLP 10% -1"]


def test_the_strongest_control_has_a_name():
    """It is the one whose rates stand as those of ``best``, the first of equals, and never a baseline."""
    kinds = {"weak": [-1] * 5, "strong": [1, 0, -1, 1, 1], "as strong": [0, 1, -1, 1, 1], "uniform": [1] * 5}
    outcome = pd.concat([rows(), *(rows(name, after=after) for name, after in kinds.items())], ignore_index=True)
    found = outcomes.summary(outcome)
    (named,) = outcomes.strongest(found).to_dict("records")
    assert named["strongest"] == "strong" and named["value"] == pytest.approx(1 / 3)
    (best,) = found[(found.control == "best") & (found.measure == "reached")].to_dict("records")
    assert all(named[name] == best[name] for name in ("method", "target", "value", "ci_low", "ci_high", "n"))
