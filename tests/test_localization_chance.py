"""Resampled groups against streamed ones, and what comes out where the truth is known."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from memgen import localization

READ = ("resid_post", "mlp.hook_post")


def streamed(plus, minus, groups, n_groups=None, splits=()):
    result = localization.PairStatistics(plus.shape[1], n_groups or groups.max() + 1)
    for part in np.split(np.arange(len(plus)), list(splits)):
        result.update(plus[part], minus[part], groups[part])
    return result


@pytest.fixture
def states(rng):
    """Pairs in six groups; units that differ, do not, never vary, and vary little about a large mean."""
    plus, minus = rng.normal(size=(2, 60, 4))
    plus[:, 0] += 0.7
    plus[:, 2] = minus[:, 2] = 0.1
    plus[:, 3], minus[:, 3] = 1e5 + plus[:, 3], 1e5 + minus[:, 3]
    return plus, minus, rng.integers(6, size=60)


class TestResampled:
    def test_everyone_once_is_the_result(self, states):
        own = streamed(*states, splits=(7, 30))
        drawn = own.resampled(np.ones((1, 6)))
        for name in ("nmd", "r"):
            assert drawn[name][0] == pytest.approx(own.result()[name], rel=1e-6, abs=1e-9)

    def test_weights_are_how_often_a_group_counts(self, states):
        plus, minus, groups = states
        weights = np.array([[0, 1, 2, 0, 3, 1], [1, 0, 0, 1, 0, 0]])
        drawn = streamed(plus, minus, groups, splits=(20,)).resampled(weights)
        for draw, own in enumerate(weights):
            rows = np.repeat(np.arange(60), own[groups])
            expected = streamed(plus[rows], minus[rows], groups[rows]).result()
            for name in ("nmd", "r"):
                assert drawn[name][draw] == pytest.approx(expected[name], rel=1e-6, abs=1e-9)

    def test_a_sign_exchanges_the_members_of_a_groups_pairs(self, states):
        plus, minus, groups = states
        signs = np.array([[1, -1, -1, 1, 1, -1]])
        drawn = streamed(plus, minus, groups).resampled(np.ones((1, 6)), signs)
        swap = (signs[0, groups] < 0)[:, None]
        expected = streamed(np.where(swap, minus, plus), np.where(swap, plus, minus), groups).result()
        for name in ("nmd", "r"):
            assert drawn[name][0] == pytest.approx(expected[name], rel=1e-6, abs=1e-9)


def test_shuffled_labels_are_one_draw_for_all_sites(planted, planted_pairs):
    accumulated = localization.accumulate(planted.model, planted.frame, planted_pairs, planted.tokenizer, READ)
    table = localization.neuron_table(accumulated, 2, np.random.default_rng(0), 100)
    drawn = localization.shuffled(accumulated, 2, np.random.default_rng(5))
    keys = ["site", "layer", "neuron"]
    pd.testing.assert_frame_equal(drawn[keys], table[keys])
    signs = np.random.default_rng(5).choice([-1.0, 1.0], size=(1, 30))
    for site, own in accumulated.items():
        expected = own.resampled(np.ones((1, 30)), signs)
        assert drawn[drawn.site == site].nmd_shuffled.to_numpy() == pytest.approx(expected["nmd"][0])
        assert drawn[drawn.site == site].r_shuffled.to_numpy() == pytest.approx(expected["r"][0])
    merged = table.merge(drawn, on=keys)
    assert merged.r_shuffled.abs().mean() < merged.r.abs().mean() / 2


class TestNullDiscoveries:
    def test_nothing_comes_out_although_there_is_much_to_find(self, planted, planted_pairs, rng):
        accumulated = localization.accumulate(planted.model, planted.frame, planted_pairs, planted.tokenizer, READ)
        found = localization.neuron_table(accumulated, 2, rng, 2000)
        assert (found.q_value < 0.05).mean() > 0.5
        null = localization.null_discoveries(accumulated, rng, 2000, n_draws=60).set_index(["site", "measure"])
        assert null.value["all", "any"] <= scipy.stats.binom.ppf(0.99, 60, 0.05) / 60
        assert null.value["all", "selected_share"] < 0.05
        assert (null.n == 60).all()
        assert set(null.index.get_level_values("site")) == {*READ, "all"}

    def test_the_rate_of_one_neuron_is_its_p_value(self, rng):
        """Sums of 1, 2 and 4: of the eight draws of signs, two are as far from zero as the labels +++ are."""
        own = localization.PairStatistics(1, 3)
        own.update(np.array([[1.0], [2.0], [4.0]]), np.zeros((3, 1)), np.arange(3))
        null = localization.null_discoveries({"one": own}, rng, 4000, n_draws=400, level=0.28)
        null = null.set_index(["site", "measure"])
        low, high = scipy.stats.binom.ppf([0.005, 0.995], 400, 0.25) / 400
        assert low <= null.value["one", "any"] <= high
        assert null.low["one", "any"] < null.value["one", "any"] < null.high["one", "any"]
        assert null.value["one", "any"] == null.value["all", "any"]
        assert null.value["one", "selected_share"] == pytest.approx(null.value["one", "any"])


class TestStability:
    def table(self, plus, minus, groups, rng, **options):
        own = streamed(plus, minus, groups)
        attributions = {"site": own.group_sums.copy()}
        return localization.stability({"site": own}, attributions, rng, **options).set_index(["ranking", "measure"])

    def test_neurons_that_always_differ_come_out_again(self, rng):
        plus, minus = rng.normal(size=(2, 400, 40))
        plus[:, [3, 8, 20, 39]] += 3.0
        table = self.table(plus, minus, np.arange(400) // 20, rng)
        for ranking in localization.RANKINGS:
            assert table.value[ranking, "pairs"] == 1
            assert table.value[ranking, "chance"] < 0.8
        assert (table.n == 20).all()

    def test_where_nothing_differs_the_overlap_is_that_of_chance(self, rng):
        plus, minus = rng.normal(size=(2, 400, 200))
        table = self.table(plus, minus, np.arange(400) // 20, rng, n_splits=100)
        for ranking in localization.RANKINGS:
            for measure in ("pairs", "chance"):
                assert 0.05 < table.value[ranking, measure] < 0.16, ranking

    def test_one_group_has_no_halves(self, states, rng):
        plus, minus, _ = states
        table = self.table(plus, minus, np.zeros(60, dtype=int), rng)
        assert table.value.isna().all()
        assert (table.n == 0).all()


class TestConcentration:
    def measures(self, sums, rng):
        table, curve = localization.concentration({"site": sums}, rng, 50)
        return table.set_index(["statistic", "measure"]), curve

    def test_equal_effects(self, rng):
        table, curve = self.measures(np.tile(rng.choice([-2.0, 2.0], 200), (3, 1)), rng)
        expected = {"top1": 0.01, "top5": 0.05, "top10": 0.1, "gini": 0, "participation": 1}
        for name, value in expected.items():
            assert table.value[name, "pairs"] == pytest.approx(value, abs=1e-9)
        own = curve[curve.measure == "pairs"]
        assert own.value.to_numpy() == pytest.approx(own.share.to_numpy())

    def test_one_neuron_alone(self, rng):
        sums = np.zeros((3, 200))
        sums[:, 17] = -1.0
        table, _ = self.measures(sums, rng)
        expected = {"top1": 1, "top5": 1, "top10": 1, "gini": 1 - 1 / 200, "participation": 1 / 200}
        for name, value in expected.items():
            assert table.value[name, "pairs"] == pytest.approx(value)

    def test_gini_is_half_the_relative_mean_difference(self, rng):
        effects = rng.normal(size=(1, 57)) ** 3
        sizes = np.abs(effects[0])
        expected = np.abs(sizes[:, None] - sizes[None]).mean() / (2 * sizes.mean())
        table, _ = self.measures(effects, rng)
        assert table.value["gini", "pairs"] == pytest.approx(expected)
        assert table.value["participation", "pairs"] == pytest.approx(sizes.sum() ** 2 / (57 * (sizes**2).sum()))

    def test_chance_takes_away_what_groups_share(self, rng):
        """Neuron 0 has the same effect in every group; all others have effects as large that change their sign."""
        sums = rng.choice([-1.0, 1.0], size=(100, 300))
        sums[:, 0] = 1.0
        table, curve = self.measures(sums, rng)
        assert table.value["top1", "pairs"] > 1.5 * table.high["top1", "chance"]
        for _, own in curve.groupby("measure"):
            assert own.value.iloc[[0, -1]].to_numpy() == pytest.approx([0, 1])
            assert (own.value.diff().dropna() >= -1e-12).all()


def test_depth_of_r_has_no_scale(states, rng):
    plus, minus, groups = states
    tables = [
        localization.depth_profile(
            {"site": streamed(k * plus, k * minus, groups)}, 2, np.random.default_rng(0), 50, "r"
        )
        for k in (1, 1000)
    ]
    assert tables[0].value.to_numpy() == pytest.approx(tables[1].value.to_numpy(), rel=1e-6)
    r = np.abs(streamed(plus, minus, groups).result()["r"])
    pairs = tables[0][tables[0].measure == "pairs"].value.to_numpy()
    assert pairs == pytest.approx([r[:2].mean(), r[2:].mean()], rel=1e-6)


def test_intervals_hold_their_values():
    table = pd.DataFrame({"value": [1.0, 2.0, 3.0], "low": [0.5, 2.5, np.nan], "high": [1.5, 3.0, np.nan]})
    around = localization.around_values(table, 9)
    assert around.low.to_list() == [0.5, 2.0, 3.0]
    assert around.high.to_list() == [1.5, 3.0, 3.0]
    assert (around.n == 9).all()
